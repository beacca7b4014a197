"""Which triangle every pixel of a set of views sees: a z-buffer, drawn for all views and bodies at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.data.synthetic.scene_buffers import SceneBuffers
from occ_perception.data.synthetic.warp_runtime import load_kernels, load_warp

_WORKERS_ON_GPU = 2048  # times PARTS threads for large triangles


@dataclass(frozen=True)
class Views:
    """V views that are drawn together.

    Attributes:
        pixel_from_ray: float64 [V, 3, 3], intrinsics; pixel centres are at .5. Orthographic: pixel from (x, y, 1).
        sizes: (width, height) of every view, pixels.
        view_from_body: float64 [V, B, 4, 4], where every body is in every view's frame (x right, y down, z forward).
        orthographic: parallel rays along z, for all views.
    """

    pixel_from_ray: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    view_from_body: np.ndarray
    orthographic: bool = False

    def layout(self) -> np.ndarray:
        """Width, height and first pixel of every view in the buffers that hold all views, int32 [V, 3]."""
        pixels = [width * height for width, height in self.sizes]
        starts = np.cumsum([0, *pixels])[:-1]
        return np.concatenate([np.array(self.sizes), starts[:, None]], 1).astype(np.int32)

    def borders(self) -> np.ndarray:
        """Planes (a, b, c, d), a x + b y + c z + d >= 0 for what a view sees, (a, b, c) unit; float64 [V, 4, 4]."""
        planes = np.zeros((len(self.sizes), 4, 4))
        for i, (width, height) in enumerate(self.sizes):
            pixels = np.array(
                [[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1], [width / 2, height / 2, 1]]
            )
            *corners, middle = pixels @ np.linalg.inv(self.pixel_from_ray[i]).T
            lines = np.cross(corners, np.roll(corners, -1, axis=0))
            lines *= np.sign(lines @ middle)[:, None]
            if self.orthographic:  # rays are parallel: (a, b) on (x, y), c on 1
                planes[i, :, [0, 1, 3]] = (lines / np.linalg.norm(lines[:, :2], axis=1, keepdims=True)).T
            else:
                planes[i, :, :3] = lines / np.linalg.norm(lines, axis=1, keepdims=True)
        return planes

    def pixel_count(self) -> int:
        """Pixels of all views."""
        return sum(width * height for width, height in self.sizes)


@dataclass(frozen=True)
class Visibility:
    """What every pixel of all views sees, on the device (Warp arrays).

    Attributes:
        keys: int64 [pixels]: bits of the float32 depth << 32 | triangle, or the largest int64 where nothing is.
        layout: vec3i [V], see `Views.layout`.
        ray_from_pixel: mat33 [V].
    """

    keys: Any
    layout: Any
    ray_from_pixel: Any


class Rasteriser:
    """Draws a scene's triangles into views.

    Args:
        buffers: the scene's triangles.
        device: where they are.
    """

    def __init__(self, buffers: SceneBuffers, device: str) -> None:
        self._buffers, self._device = buffers, device
        self._warp, self._kernels = load_warp(device), load_kernels("_raster_kernels", device)
        self._triangles = self._kernels.Triangles()
        for name in ("corners", "radii", "bodies"):
            setattr(self._triangles, name, getattr(buffers, name))
        self._large, self._large_count = None, self._warp.zeros(1, dtype=self._warp.int32, device=device)

    def draw(self, views: Views) -> Visibility:
        """The nearest triangle of every pixel of every view."""
        warp, device = self._warp, self._device
        keys = warp.full(views.pixel_count(), value=self._kernels.EMPTY, dtype=warp.int64, device=device)
        count = len(views.sizes) * self._buffers.count
        if self._large is None or len(self._large) < count:
            self._large = warp.empty(count, dtype=warp.vec2i, device=device)  # room for every triangle in every view
        self._large_count.zero_()
        table = self._upload(views)
        inputs = [self._triangles, table, keys, self._large, self._large_count]
        dim = (len(views.sizes), self._buffers.count)
        warp.launch(self._kernels.draw_small, dim=dim, inputs=inputs, device=device)
        workers = 1 if device == "cpu" else _WORKERS_ON_GPU
        dim = (workers, int(self._kernels.PARTS))
        warp.launch(self._kernels.draw_large, dim=dim, inputs=[*inputs, workers], device=device)
        return Visibility(keys, table.layout, table.ray_from_pixel)

    def _upload(self, views: Views) -> Any:
        """The kernels' `ViewTable`."""

        def upload(values: np.ndarray, dtype: Any) -> Any:
            return self._warp.array(values.astype(np.float32), dtype=dtype, device=self._device)

        table = self._kernels.ViewTable()
        table.view_from_body = upload(views.view_from_body, self._warp.mat44)
        table.pixel_from_ray = upload(views.pixel_from_ray, self._warp.mat33)
        table.ray_from_pixel = upload(np.linalg.inv(views.pixel_from_ray), self._warp.mat33)
        table.borders = upload(views.borders(), self._warp.vec4)
        table.layout = self._warp.array(views.layout(), dtype=self._warp.vec3i, device=self._device)
        table.orthographic = views.orthographic
        return table
