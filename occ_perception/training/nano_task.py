"""Training `nano`: frames to network inputs and targets, with the augmentation that makes sensors optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from occ_perception.data import image_labels
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import CameraImage
from occ_perception.geometry import inverse, transform_points
from occ_perception.image_codec import decode_image
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.models.base import ModelInput
from occ_perception.models.lidar_carving_config import OwnVehicle
from occ_perception.models.nano import FEATURE_STRIDE, Nano, class_scores
from occ_perception.models.nano_config import NanoConfig
from occ_perception.models.nano_geometry import SensorTensors, lidar_in_anchor, sensor_tensors, with_finite_points
from occ_perception.models.nano_types import NanoInputs, NanoOutput, NanoState, columns_from_grid, grid_from_columns
from occ_perception.ontology import FREE
from occ_perception.ops.frustum import CameraTensors
from occ_perception.ops.lidar_depth import depth_bins, nearest_depth_map
from occ_perception.training.augmentation import ImageAugmentation, sample_bev_flip, sample_image_augmentation
from occ_perception.training.nano_losses import nano_losses, sampled_cells
from occ_perception.training.nano_targets import IGNORE, NanoTargets, nano_targets
from occ_perception.training.targets import NO_FLIP, BevFlip
from occ_perception.training.task import Draw, LabelledFrame, TaskDescription, grid_motion

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CAMERAS = len(NUSCENES_CAMERAS)


@dataclass(frozen=True)
class NanoTaskSettings:
    """What a training run of `nano` may vary; probabilities 0..1.

    Attributes:
        adaptive_lifting, use_history: see `NanoConfig`; off for ablations.
        camera_only, lidar_only: share of streams that train without LiDAR, and without any camera.
        lidar_dropout: share of the other streams' frames whose sweep is lost.
        camera_dropout: share of frames that lose one camera (a quarter of them two).
        augment: whether images and grids are augmented and sensors dropped at all.
        class_weight_power: weight of a class = (share of free / its share of the voxels) ** this.
    """

    adaptive_lifting: bool = True
    use_history: bool = True
    camera_only: float = 0.45
    lidar_only: float = 0.1
    lidar_dropout: float = 0.1
    camera_dropout: float = 0.2
    augment: bool = True
    class_weight_power: float = 0.25

    def __post_init__(self) -> None:
        shares = (self.camera_only, self.lidar_only, self.lidar_dropout, self.camera_dropout)
        if not all(0 <= share <= 1 for share in shares) or self.camera_only + self.lidar_only > 1:
            raise ConfigurationError(
                f"expected shares from 0 to 1, camera_only and lidar_only together at most 1, got {shares}"
            )
        if not 0 <= self.class_weight_power <= 2:
            raise ConfigurationError(f"class_weight_power: expected 0..2, got {self.class_weight_power}")


# Share of the visible voxels by class, measured on 49 frames of the synthetic training split; free is the last.
CLASS_SHARES = (
    0.000548, 0.000287, 0.000141, 0.001548, 0.002475, 0.000761, 0.000106, 0.000429, 0.000144, 0.000733,
    0.001352, 0.029736, 0.006759, 0.009530, 0.018932, 0.013144, 0.006269, 0.907105,
)  # fmt: skip


@dataclass(frozen=True)
class _Sensors:
    """Which sensors take part in one sample."""

    cameras: np.ndarray  # bool [N]
    lidar: bool


class NanoTask:
    """`TrainingTask` of `nano`.

    Args:
        settings: see there.
        own_vehicle: LiDAR returns inside are not seen.
    """

    needs_previous = True  # for its pose

    def __init__(self, settings: NanoTaskSettings | None = None, own_vehicle: OwnVehicle | None = None) -> None:
        self.settings = settings = settings or NanoTaskSettings()
        self.config = NanoConfig(adaptive_lifting=settings.adaptive_lifting, use_history=settings.use_history)
        self.network: nn.Module = Nano(self.config)
        self.description = TaskDescription(self.config.name, self.config.label_set, mask_training=True)
        self._own_vehicle = own_vehicle or OwnVehicle()
        shares = torch.tensor(CLASS_SHARES)
        self._class_weight = (shares[-1] / shares) ** settings.class_weight_power

    # -- in loader processes

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`."""
        if not self.settings.augment:
            draw = None
        flip = NO_FLIP if draw is None else sample_bev_flip(draw.stream)
        sensors = self._draw_sensors(sample, draw)
        augmentations = [self._image_augmentation(sample, name, draw) for name in NUSCENES_CAMERAS]
        images = [self._image(sample, row, augmentations[row], draw) for row in range(_CAMERAS)]
        geometry = self._geometry(sample, augmentations)
        targets = nano_targets(sample.label, self.config.free_class, flip)
        occupancy = geometry.lidar_occupancy & sensors.lidar
        depth, shown = self._image_targets(sample, geometry, augmentations)
        # A camera that is lost teaches nothing.
        lost = torch.from_numpy(~sensors.cameras)[:, None, None]
        return {
            "images": torch.stack(images),
            **{name: values[0] for name, values in geometry.cameras._asdict().items() if name != "bda"},
            "bda": flip.matrix(),
            "camera_mask": torch.from_numpy(sensors.cameras),
            "lidar_columns": columns_from_grid(occupancy.flip(_flipped_axes(flip)))[0].contiguous(),
            "lidar_depth": geometry.lidar_depth[0].masked_fill(lost, -1),
            "depth_target": depth.masked_fill(lost, -1),
            "image_target": shown.masked_fill(lost, IGNORE),
            "lidar_mask": torch.tensor(sensors.lidar),
            "previous_from_current_ego": torch.from_numpy(grid_motion(sample, previous)),
            **targets._asdict(),
        }

    def _draw_sensors(self, sample: LabelledFrame, draw: Draw | None) -> _Sensors:
        settings = self.settings
        present = np.array([name in sample.frame.images for name in NUSCENES_CAMERAS])
        lidar = bool(sample.frame.lidar)
        if draw is None:
            return _Sensors(present, bool(lidar))
        kind = draw.stream.random()
        losses, lost_sweep = draw.frame.random(2)
        if lidar and kind >= 1 - settings.lidar_only:
            return _Sensors(np.zeros_like(present), True)
        lidar &= kind >= settings.camera_only and lost_sweep >= settings.lidar_dropout
        order = draw.frame.permutation(_CAMERAS)
        lost = 0 if losses >= settings.camera_dropout else 1 if losses >= settings.camera_dropout / 4 else 2
        present[order[:lost]] = False
        return _Sensors(present, bool(lidar))

    def _image_augmentation(self, sample: LabelledFrame, name: str, draw: Draw | None) -> ImageAugmentation:
        height, width = self.config.image_size
        camera = sample.frame.rig.get(name)
        source = (camera.width, camera.height) if camera else (2 * width, 2 * height)
        resize = width / source[0]
        if draw is not None:
            jitter = (-0.12 * resize, 0.2 * resize)
            return sample_image_augmentation(draw.frame, source, (width, height), jitter)
        return ImageAugmentation(resize, (width, height), (0, int(source[1] * resize) - height))

    def _image(self, sample: LabelledFrame, row: int, augmentation: ImageAugmentation, draw: Draw | None) -> Tensor:
        """uint8 [3, H, W]; zero for a camera that delivered nothing."""
        image = sample.frame.images.get(NUSCENES_CAMERAS[row])
        if image is None:
            return torch.zeros(3, *self.config.image_size, dtype=torch.uint8)
        if not isinstance(image, CameraImage):
            raise InvalidInputError("training wants original images, not prepared ones")
        camera = sample.frame.rig[NUSCENES_CAMERAS[row]]
        picture = augmentation.apply(Image.fromarray(decode_image(image.data, (camera.width, camera.height))))
        pixels = np.asarray(picture)
        if draw is not None:
            pixels = _photometric(pixels, draw.frame)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    def _geometry(self, sample: LabelledFrame, augmentations: list[ImageAugmentation]) -> SensorTensors:
        """Calibration of all cameras (identity where one is missing) and LiDAR, in the label's grid frame."""
        frame = sample.frame
        present = tuple(name in frame.images for name in NUSCENES_CAMERAS)
        affines = torch.from_numpy(np.stack([augmentation.affine() for augmentation in augmentations]))
        inputs = ModelInput(frame, NUSCENES_CAMERAS, present, None, affines)
        grid_from_anchor = inverse(sample.ego_from_grid)
        tensors = sensor_tensors(inputs, self.config, self._own_vehicle, torch.device("cpu"), grid_from_anchor)
        if all(present):
            return tensors
        rows = torch.tensor(present).nonzero().squeeze(1)
        height, width = (side // FEATURE_STRIDE for side in self.config.image_size)
        nothing = torch.full((1, _CAMERAS, height, width), -1)
        return tensors._replace(
            cameras=_all_cameras(tensors.cameras, rows),
            lidar_depth=nothing.index_copy(1, rows, tensors.lidar_depth),
            lidar_point=nothing.index_copy(1, rows, tensors.lidar_point),
        )

    def _image_targets(
        self, sample: LabelledFrame, geometry: SensorTensors, augmentations: list[ImageAugmentation]
    ) -> tuple[Tensor, Tensor]:
        """Depth bin (-1 not known) and class (`IGNORE`) of each feature cell, [N, h, w]: those of the nearest labelled
        pixel of a cell where images are labelled, else of its nearest LiDAR return."""
        depth, shown = geometry.lidar_depth[0].clone(), self._image_classes(sample, geometry.lidar_point[0])
        for row, name in enumerate(NUSCENES_CAMERAS):
            labels = (sample.image_labels or {}).get(name)
            if labels is not None:
                camera = sample.frame.rig[name]
                expected = image_labels.shape_of(camera.width, camera.height)
                if labels.depth.shape != expected:
                    raise InvalidInputError(f"{name}: image labels: expected {expected}, got {labels.depth.shape}")
                depth[row], shown[row] = self._cells_of_labels(labels, augmentations[row])
        return depth, shown

    def _cells_of_labels(
        self, labels: image_labels.ImageLabels, augmentation: ImageAugmentation
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        height, width = labels.depth.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        affine = augmentation.affine()
        pixels = image_labels.STRIDE * np.stack([columns.ravel(), rows.ravel()], axis=1) @ affine[:2, :2].T
        pixels += affine[:2, 2] - 0.5  # of a pixel's middle, where its index says
        # Sky and all that is too far for the bins belong into the last one: nothing of it lies in the grid.
        metres = np.minimum(labels.depth.ravel(), config.depth_stop - config.depth_step / 2)
        limits = (config.depth_start, config.depth_stop)
        nearest = nearest_depth_map(
            torch.from_numpy(pixels), torch.from_numpy(metres), config.image_size, FEATURE_STRIDE, limits
        )
        classes = torch.from_numpy(labels.classes.ravel())[nearest.point.clamp(min=0)]
        shown = torch.where((nearest.point >= 0) & (classes < config.free_class), classes, IGNORE).to(torch.uint8)
        return depth_bins(nearest.depth, config.depth_start, config.depth_step, config.depth_bins), shown

    def _image_classes(self, sample: LabelledFrame, point: Tensor) -> Tensor:
        """Class of what each feature cell's nearest LiDAR return hit, by the label's voxel there; uint8 [N, h, w]."""
        if not sample.frame.lidar:
            return torch.full(point.shape, IGNORE, dtype=torch.uint8)
        inputs = with_finite_points(ModelInput(sample.frame))
        points = transform_points(inverse(sample.ego_from_grid), lidar_in_anchor(inputs))
        if not len(points):
            return torch.full(point.shape, IGNORE, dtype=torch.uint8)
        cells, inside = sample.label.grid.cells_of(points)
        classes = np.where(inside, sample.label.semantics[tuple(cells.T)], IGNORE)
        classes = np.where(classes < self.config.free_class, classes, IGNORE).astype(np.uint8)
        return torch.where(point >= 0, torch.from_numpy(classes)[point.clamp(min=0)], IGNORE).to(torch.uint8)

    # -- in the training process

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        """See `TrainingTask.losses`."""
        targets = NanoTargets(*(batch[name] for name in NanoTargets._fields))
        class_weight = self._class_weight.to(batch["bda"].device)
        cells = sampled_cells(targets.classes, class_weight)
        output, after = self.run(network, batch, state, starts, cells.rows)
        measured = (batch["depth_target"], batch["image_target"])
        return nano_losses(output, targets, cells, *measured, class_weight), after

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        """See `TrainingTask.evaluate`."""
        output, after = self.run(network, batch, state, starts)
        return self.classes(output, batch), after

    def run(
        self,
        network: nn.Module,
        batch: dict[str, Tensor],
        state: Any,
        starts: tuple[bool, ...],
        cells: Tensor | None = None,
    ) -> tuple[NanoOutput, NanoState]:
        """The network's output of a batch (of chosen coarse cells, see `Nano.forward`), and its state after it."""
        before = NanoState(*state) if state is not None else None
        return network(_network_inputs(batch, starts), before, cells=cells)

    def classes(self, output: NanoOutput, batch: dict[str, Tensor]) -> Tensor:
        """Best class of every voxel in the axes of the unaugmented labels, uint8 [B, X, Y, Z], FREE for free."""
        classes = grid_from_columns(class_scores(output).argmax(dim=3).to(torch.uint8))
        unflipped = [
            grid.flip([axis for axis in (0, 1) if bda[axis, axis] < 0])
            for grid, bda in zip(classes, batch["bda"], strict=True)
        ]
        classes = torch.stack(unflipped)
        return torch.where(classes == self.config.free_class, FREE, classes)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `TrainingTask.parameter_groups`; norms and biases do not decay."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]


def _network_inputs(batch: dict[str, Tensor], starts: tuple[bool, ...]) -> NanoInputs:
    device = batch["images"].device
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _STD))
    images = (batch["images"].float() - mean) / std * batch["camera_mask"][..., None, None, None]
    seen = batch["lidar_mask"][:, None, None, None]
    return NanoInputs(
        images,
        CameraTensors(*(batch[name] for name in CameraTensors._fields)),
        batch["camera_mask"],
        batch["lidar_columns"],
        torch.where(seen, batch["lidar_depth"], -1),
        batch["lidar_mask"],
        batch["previous_from_current_ego"],
        torch.tensor(starts, device=device),
    )


def _flipped_axes(flip: BevFlip) -> list[int]:
    """Axes of a [1, X, Y, Z] grid that a flip reverses."""
    return [axis for axis, wanted in ((1, flip.x), (2, flip.y)) if wanted]


def _all_cameras(present: CameraTensors, rows: Tensor) -> CameraTensors:
    """Calibration rows of the cameras that are there, spread over all; the others get the identity."""

    def spread(values: Tensor) -> Tensor:
        blank = torch.eye(3).expand(1, _CAMERAS, 3, 3) if values.ndim == 4 else torch.zeros(1, _CAMERAS, 3)
        return blank.index_copy(1, rows, values)

    rots, trans, intrins, post_rots, post_trans, bda = present
    return CameraTensors(spread(rots), spread(trans), spread(intrins), spread(post_rots), spread(post_trans), bda)


def _photometric(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, colour balance and saturation of uint8 RGB [H, W, 3], varied."""
    gain = random.uniform(0.75, 1.25) * random.uniform(0.93, 1.07, 3)
    shift = random.uniform(-16, 16)
    saturation = random.uniform(0.6, 1.3)
    values = pixels.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    values = (grey + (values - grey) * np.float32(saturation)) * gain.astype(np.float32) + np.float32(shift)
    return np.clip(values, 0, 255).astype(np.uint8)


__all__ = ["NanoTask", "NanoTaskSettings"]
