"""Where things may stand: plan and ground in one place, and a record of what is taken."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.ground import Ground
from occ_perception.data.synthetic.plan import Plan
from occ_perception.data.synthetic.primitives import moved
from occ_perception.data.synthetic.scene import TriangleMesh


class Site:
    """The ground to build on.

    Args:
        plan: streets and warp.
        ground: heights.
        path: the vehicle's in the plan, [N, 2].
    """

    def __init__(self, plan: Plan, ground: Ground, path: np.ndarray) -> None:
        self.plan = plan
        self.ground = ground
        self.path = path
        self._taken = np.zeros((0, 3))

    def distance(self, uv: np.ndarray) -> np.ndarray:
        """From the vehicle's path, in the plan, [N] for points [N, 2]."""
        return np.linalg.norm(np.atleast_2d(uv)[:, None] - self.path, axis=-1).min(-1)

    def position(self, uv: np.ndarray, sunk: float = 0.0) -> np.ndarray:
        """World position of a plan point on the ground, [3]."""
        return np.append(self.plan.warp.points(uv), self.ground.height(uv) - sunk)

    def yaw(self, uv: np.ndarray, plan_heading: float) -> float:
        """World yaw of a plan direction."""
        return float(self.plan.warp.heading(uv, plan_heading))

    def place(self, mesh: TriangleMesh, uv: np.ndarray, plan_heading: float, sunk: float = 0.0) -> TriangleMesh:
        """A mesh from its own frame to the world."""
        return moved(mesh, self.position(uv, sunk), self.yaw(uv, plan_heading))

    def claim(self, uv: np.ndarray, radius: float) -> bool:
        """Take a disc of the world around a plan point [2], if it is free."""
        return self.claim_row(uv[None], radius)

    def claim_row(self, uv: np.ndarray, radius: float) -> bool:
        """Take discs around plan points [N, 2], if all are free; they may overlap each other."""
        points = self.plan.warp.points(uv)
        near = np.linalg.norm(points[:, None] - self._taken[:, :2], axis=-1)
        if bool((near < self._taken[:, 2] + radius).any()):
            return False
        self._taken = np.vstack([self._taken, np.column_stack([points, np.full(len(points), radius)])])
        return True
