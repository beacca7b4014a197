"""A buffer of transforms over time: per-edge history, interpolation, multi-hop and time-travel look-up.

The ROS-free counterpart of a tf2 buffer, shared by the live node, the bag replayer and the readers, so that
all of them answer the same question in the same way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

import numpy as np

from occ_perception.errors import (
    AfterLastError,
    BeforeFirstError,
    InvalidInputError,
    NoPathError,
    TransformGapError,
    UnknownFrameError,
)
from occ_perception.geometry.transforms import inverse, rigid, rotation_from_quaternion, slerp


@dataclass(order=True)
class _Sample:
    stamp_ns: int
    translation: np.ndarray = field(compare=False)
    quaternion_xyzw: np.ndarray = field(compare=False)


@dataclass
class _Edge:
    """History of ``parent_from_child``; a static edge has one sample that holds at every time."""

    parent: str
    is_static: bool
    samples: list[_Sample] = field(default_factory=list)


class TransformTree:
    """Named frames joined by timed or static rigid transforms.

    Args:
        history_s: how much of each edge is kept behind its newest transform, seconds.
        max_samples: hard bound of samples per edge, whatever their stamps.
        max_gap_s: longest hole between two transforms of an edge that is interpolated over, seconds.
        max_edges: hard bound of edges; when it is reached, timed edges that fell silent are forgotten.
    """

    def __init__(
        self, history_s: float = 10.0, max_samples: int = 20_000, max_gap_s: float = 1.0, max_edges: int = 2_000
    ) -> None:
        self._history_ns = int(history_s * 1e9)
        self._max_samples = max_samples
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._max_edges = max_edges
        self._edges: dict[str, _Edge] = {}  # by child: every frame has at most one parent
        self._frames: set[str] = set()

    def set(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: np.ndarray | list[float] | tuple[float, ...],
        quaternion_xyzw: np.ndarray | list[float] | tuple[float, ...],
        static: bool = False,
    ) -> None:
        """Add ``parent_from_child`` at a stamp (a static one replaces what was there and holds at every time).

        Samples may come late and out of order; one with the same stamp replaces the older.  A new parent
        replaces the edge to the old one, as in tf2.

        Raises:
            InvalidInputError: values not finite, zero quaternion, a frame joined to itself, a cycle, or too many
                frames (see ``max_edges``).
        """
        translation = np.asarray(translation, np.float64)
        quaternion = np.asarray(quaternion_xyzw, np.float64)
        if translation.shape != (3,) or not np.all(np.isfinite(translation)) or quaternion.shape != (4,):
            raise InvalidInputError(f"transform {parent} <- {child}: bad translation or quaternion size/values")
        rotation_from_quaternion(quaternion)  # raises on a useless quaternion
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or edge.is_static != static:
            self._check_no_cycle(parent, child)
            if edge is None and len(self._edges) >= self._max_edges:
                self._forget_silent_edges(int(stamp_ns))
            edge = self._edges[child] = _Edge(parent, static)
            self._frames |= {parent, child}
        sample = _Sample(int(stamp_ns), translation, quaternion / np.linalg.norm(quaternion))
        if static:
            edge.samples[:] = [sample]
        else:
            self._insert(edge.samples, sample)

    def _insert(self, samples: list[_Sample], sample: _Sample) -> None:
        if not samples or sample.stamp_ns > samples[-1].stamp_ns:
            samples.append(sample)
        else:
            at = bisect_left(samples, sample)
            if samples[at].stamp_ns == sample.stamp_ns:
                samples[at] = sample
            else:
                insort(samples, sample)
        oldest_kept = samples[-1].stamp_ns - self._history_ns
        excess = max(len(samples) - self._max_samples, 0)
        while excess < len(samples) - 1 and samples[excess + 1].stamp_ns <= oldest_kept:
            excess += 1
        del samples[:excess]

    def _check_no_cycle(self, parent: str, child: str) -> None:
        node = parent
        while node != child and node in self._edges:
            node = self._edges[node].parent
        if node == child:
            raise InvalidInputError(f"transform {parent} <- {child} would close a cycle")

    def _forget_silent_edges(self, now_ns: int) -> None:
        """Make room: timed edges with nothing newer than the history kept go (a frame per tracked object, say)."""
        oldest = now_ns - self._history_ns
        self._keep_edges({c: e for c, e in self._edges.items() if e.is_static or e.samples[-1].stamp_ns > oldest})
        if len(self._edges) >= self._max_edges:
            raise InvalidInputError(f"transform tree: {len(self._edges)} frames at once, no more are taken")

    def _keep_edges(self, edges: dict[str, _Edge]) -> None:
        self._edges = edges
        self._frames = {f for child, edge in edges.items() for f in (child, edge.parent)}

    def clear(self, keep_static: bool = True) -> None:
        """Forget all timed transforms (time jumped back), and the static ones too if asked."""
        self._keep_edges({c: e for c, e in self._edges.items() if keep_static and e.is_static})

    @property
    def frames(self) -> frozenset[str]:
        """Names of all frames seen."""
        return frozenset(self._frames)

    def parent_of(self, frame: str) -> str | None:
        """Parent of a frame, or None for a root or an unknown frame."""
        edge = self._edges.get(frame)
        return edge.parent if edge else None

    def has_path(self, dst: str, src: str) -> bool:
        """Whether the frames are joined, at whatever time."""
        return dst in self._frames and src in self._frames and self._root_path(dst)[-1] == self._root_path(src)[-1]

    def coverage(self, dst: str, src: str) -> tuple[int, int] | None:
        """Stamps (first, last, ns) between which look-ups of a path succeed; None if every edge is static.

        Raises:
            UnknownFrameError, NoPathError: as in `lookup`.
        """
        spans = [
            (e.samples[0].stamp_ns, e.samples[-1].stamp_ns)
            for e in (self._edges[c] for half in self._halves(dst, src) for c in half)
            if not e.is_static
        ]
        return (max(s for s, _ in spans), min(e for _, e in spans)) if spans else None

    def lookup(self, dst: str, src: str, stamp_ns: int) -> np.ndarray:
        """``dst_from_src`` at a stamp, float64 [4, 4]; timed edges are interpolated, never extrapolated.

        Raises:
            UnknownFrameError: a name was never seen (the message lists those that were).
            NoPathError: both were seen but nothing joins them.
            BeforeFirstError, AfterLastError: an edge on the path does not reach back or forward to the stamp.
            TransformGapError: nothing was received around the stamp for longer than ``max_gap_s``.
        """
        dst_up, src_up = self._halves(dst, src)
        return inverse(self._to_ancestor(dst_up, stamp_ns)) @ self._to_ancestor(src_up, stamp_ns)

    def lookup_time_travel(self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int, fixed: str) -> np.ndarray:
        """``dst(at dst_stamp)_from_src(at src_stamp)`` through a frame that does not move in the world.

        Raises:
            TransformError: see `lookup`.
        """
        return inverse(self.lookup(fixed, dst, dst_stamp_ns)) @ self.lookup(fixed, src, src_stamp_ns)

    def _root_path(self, frame: str) -> list[str]:
        path = [frame]
        while path[-1] in self._edges:
            path.append(self._edges[path[-1]].parent)
        return path

    def _halves(self, dst: str, src: str) -> tuple[list[str], list[str]]:
        """Children on the way from dst and from src up to their lowest common ancestor."""
        for name in (dst, src):
            if name not in self._frames:
                raise UnknownFrameError(f"frame '{name}' is unknown; known frames: {sorted(self._frames)}")
        dst_path, src_path = self._root_path(dst), self._root_path(src)
        if dst_path[-1] != src_path[-1]:
            raise NoPathError(
                f"no path between '{dst}' (tree of '{dst_path[-1]}') and '{src}' (tree of '{src_path[-1]}')"
            )
        while dst_path and src_path and dst_path[-1] == src_path[-1]:
            dst_path.pop()
            src_path.pop()
        return dst_path, src_path

    def _to_ancestor(self, children: list[str], stamp_ns: int) -> np.ndarray:
        ancestor_from_frame = np.eye(4)
        for child in children:
            ancestor_from_frame = self._edge_at(child, stamp_ns) @ ancestor_from_frame
        return ancestor_from_frame

    def _edge_at(self, child: str, stamp_ns: int) -> np.ndarray:
        edge = self._edges[child]
        samples = edge.samples
        if edge.is_static:
            return rigid(samples[0].translation, samples[0].quaternion_xyzw)
        after = bisect_right(samples, stamp_ns, key=lambda s: s.stamp_ns)
        if after == 0:
            gap = (samples[0].stamp_ns - stamp_ns) * 1e-9
            raise BeforeFirstError(f"{edge.parent} <- {child}: {gap:.3f} s before the first transform kept")
        before = samples[after - 1]
        if before.stamp_ns == stamp_ns:
            return rigid(before.translation, before.quaternion_xyzw)
        if after == len(samples):
            gap = (stamp_ns - before.stamp_ns) * 1e-9
            raise AfterLastError(f"{edge.parent} <- {child}: {gap:.3f} s after the last transform received")
        following = samples[after]
        if following.stamp_ns - before.stamp_ns > self._max_gap_ns:
            hole = (following.stamp_ns - before.stamp_ns) * 1e-9
            raise TransformGapError(f"{edge.parent} <- {child}: nothing for {hole:.3f} s around the stamp")
        fraction = (stamp_ns - before.stamp_ns) / (following.stamp_ns - before.stamp_ns)
        translation = (1 - fraction) * before.translation + fraction * following.translation
        return rigid(translation, slerp(before.quaternion_xyzw, following.quaternion_xyzw, fraction))
