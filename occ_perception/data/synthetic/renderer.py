"""Camera pictures of a scene with the truth behind every pixel."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.data.synthetic.rasteriser import Rasteriser, Views
from occ_perception.data.synthetic.scene import Scene
from occ_perception.data.synthetic.scene_buffers import BodyPoses, SceneBuffers
from occ_perception.data.synthetic.shading import Moment, Shading
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import PinholeCamera, check_rigid, inverse


@dataclass(frozen=True)
class RenderedImage:
    """One picture and what it shows; pixel (column, row) is seen through (column + 0.5, row + 0.5).

    Attributes:
        rgb: uint8 [H, W, 3].
        depth: float32 [H, W], metres along the optical axis, inf = sky.
        class_ids: uint8 [H, W], Occ3D classes, 255 = sky.
        instances: uint16 [H, W], `Actor.instance_id`, 0 = none.
    """

    rgb: np.ndarray
    depth: np.ndarray
    class_ids: np.ndarray
    instances: np.ndarray


class SceneRenderer:
    """Renders a scene's cameras; equal calls give equal bytes.

    The shadows of a rig are those of its cameras' mean time; everything else is where it is at each camera's own.

    Args:
        scene: what to render.
        device: Warp's name of where, "cpu" or "cuda".
        supersampling: colours are the mean of this many squared rays per pixel; the truth is that of its middle.

    Raises:
        ConfigurationError: Warp is missing or has no such device, or supersampling is below 1.
        InvalidInputError: a mesh refers to a material that does not exist.
    """

    def __init__(self, scene: Scene, device: str = "cpu", supersampling: int = 1) -> None:
        if supersampling < 1:
            raise ConfigurationError(f"supersampling: expected 1 or more rays per pixel's side, got {supersampling}")
        self._scene, self._device, self._samples = scene, device, supersampling
        self._buffers, self._bodies = SceneBuffers(scene, device), BodyPoses(scene)
        self._rasteriser = Rasteriser(self._buffers, device)
        self._shading = Shading(scene, self._buffers, device)

    def render(self, camera: PinholeCamera, world_from_ego: np.ndarray, time_s: float) -> RenderedImage:
        """One camera's picture.

        Args:
            camera: intrinsics, mounting and image size.
            world_from_ego: pose of the vehicle at that time, float64 [4, 4].
            time_s: seconds since the scene's start.
        """
        return self.render_rig({"camera": camera}, {"camera": world_from_ego}, {"camera": time_s})["camera"]

    def render_rig(
        self,
        cameras: Mapping[str, PinholeCamera],
        world_from_ego: Mapping[str, np.ndarray],
        times_s: Mapping[str, float],
    ) -> dict[str, RenderedImage]:
        """Pictures of several cameras, drawn together; a pose and a time per camera.

        Raises:
            InvalidInputError: a camera has no pose or time, or they are not rigid or finite.
        """
        if not cameras:
            return {}
        poses, times = _poses_and_times(cameras, world_from_ego, times_s)
        moment = self._moment(list(cameras.values()), poses, times)
        views = _views(list(cameras.values()), moment, 1)
        seen = self._rasteriser.draw(views)
        # Truth is that of a pixel's middle, where an even number of samples per side has none.
        fine = (
            seen if self._samples == 1 else self._rasteriser.draw(_views(list(cameras.values()), moment, self._samples))
        )
        now = self._bodies.world_from_body(np.array([times.mean()]))[0]
        shadows = self._shading.shadow_map(self._rasteriser, poses[:, :3, 3].mean(0), now)
        rgb = self._shading.colors(fine, seen.layout, moment, shadows, views.sizes, self._samples)
        return _split(cameras, views, rgb, self._shading.truth(seen))

    def _moment(self, cameras: list[PinholeCamera], poses: np.ndarray, times: np.ndarray) -> Moment:
        world_from_body = self._bodies.world_from_body(times)
        world_from_view = poses @ np.stack([camera.ego_from_camera for camera in cameras])
        seeds = [
            zlib.crc32(
                np.append(camera.ego_from_camera, [*camera.intrinsics.ravel(), time, self._scene.seed]).tobytes()
            )
            for camera, time in zip(cameras, times, strict=True)
        ]
        return Moment(
            world_from_body, inverse(world_from_body) @ world_from_view[:, None], poses, np.array(seeds, np.uint32)
        )


def _poses_and_times(
    cameras: Mapping[str, PinholeCamera], world_from_ego: Mapping[str, np.ndarray], times_s: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Poses float64 [V, 4, 4] and times float64 [V] in the cameras' order."""
    missing = [name for name in cameras if name not in world_from_ego or name not in times_s]
    if missing:
        raise InvalidInputError(f"render: cameras {missing} have no pose or no time")
    times = np.array([times_s[name] for name in cameras], np.float64)
    if not np.all(np.isfinite(times)):
        raise InvalidInputError(f"render: expected finite times in seconds, got {dict(times_s)}")
    return np.stack([check_rigid(world_from_ego[name], f"world_from_ego of {name}") for name in cameras]), times


def _views(cameras: list[PinholeCamera], moment: Moment, samples: int) -> Views:
    """The cameras as views with samples x samples pixels for one of theirs."""
    scale = np.diag([samples, samples, 1.0])
    return Views(
        np.stack([scale @ camera.intrinsics for camera in cameras]),
        tuple((camera.width * samples, camera.height * samples) for camera in cameras),
        inverse(moment.body_from_view),
    )


def _split(
    cameras: Mapping[str, PinholeCamera], views: Views, rgb: Any, truth: tuple[Any, Any, Any]
) -> dict[str, RenderedImage]:
    """The buffers of all views as one image per camera."""
    colors, depth, class_ids, instances = (array.numpy() for array in (rgb, *truth))
    images = {}
    for name, (width, height, start) in zip(cameras, views.layout().tolist(), strict=True):
        part = slice(start, start + width * height)
        images[name] = RenderedImage(
            colors[part].reshape(height, width, 3),
            depth[part].reshape(height, width),
            class_ids[part].reshape(height, width),
            instances[part].reshape(height, width),
        )
    return images
