"""From labelled frames to what ALOcc trains on: augmented images, calibration, motion and targets (section 10)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occ_perception.data.labels import GridLabel
from occ_perception.errors import InvalidInputError
from occ_perception.frame import CameraImage, Frame
from occ_perception.geometry import VoxelGrid, inverse, transform_points
from occ_perception.image_codec import decode_image
from occ_perception.models.alocc import LIFTING_STRIDE
from occ_perception.models.alocc_config import NUSCENES_CAMERAS, ALOccConfig
from occ_perception.models.alocc_geometry import camera_tensors, lidar_depth_maps, lidar_from_anchor, stereo_motion
from occ_perception.models.alocc_types import ALOccInputs
from occ_perception.models.base import ImageSpec, ModelInput
from occ_perception.models.camera_inputs import CameraPoses, camera_poses
from occ_perception.ontology import FREE
from occ_perception.ops.frustum import CameraTensors
from occ_perception.ops.lidar_depth import depth_bins
from occ_perception.training.augmentation import ImageAugmentation, sample_bev_flip, sample_image_augmentation
from occ_perception.training.mask_loss import IGNORE
from occ_perception.training.targets import NO_FLIP, BevFlip, flow_target, lidar_image_labels, voxel_labels
from occ_perception.training.task import Draw, LabelledFrame, grid_motion

_SPEC = ImageSpec(0, 0)  # for the normalisation, which all camera models share
_ALL = (True,) * len(NUSCENES_CAMERAS)


class _View(NamedTuple):
    """One frame's cameras under one augmentation."""

    inputs: ModelInput
    poses: CameraPoses
    augmentations: list[ImageAugmentation]


class ALOccSamples:
    """Prepares samples of one variant and turns batches of them into network inputs.

    Args:
        config: of the network.
        augment: vary images, flip the bird's-eye view.
        image_labels: make targets for the loss on image features.
    """

    def __init__(self, config: ALOccConfig, augment: bool, image_labels: bool) -> None:
        self.config = config
        self._augment, self._image_labels = augment, image_labels

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`; images stay uint8 RGB.

        Raises:
            InvalidInputError: a camera, the LiDAR or the pose is missing, or the labels are of another set or grid.
        """
        self._check(sample)
        draw = draw if self._augment else None
        flip = NO_FLIP if draw is None else sample_bev_flip(draw.stream)
        view = self._view(sample.frame, draw)
        grid_from_anchor = lidar_from_anchor(sample.frame) if self.config.lidar_axes else None
        cameras = camera_tensors(view.inputs, view.poses, torch.device("cpu"), grid_from_anchor)
        tensors = {
            "images": self._images(sample.frame, view.augmentations),
            **{name: value[0] for name, value in cameras._asdict().items() if name != "bda"},
            "bda": flip.matrix(),
            "ego_motion": torch.from_numpy(grid_motion(sample, previous)),
            **self._lidar_targets(sample, view),
            **self._grid_targets(sample.label, flip),
        }
        return {**tensors, **self._stereo(view, previous)} if self.config.stereo else tensors

    def _check(self, sample: LabelledFrame) -> None:
        frame, label, config = sample.frame, sample.label, self.config
        missing = [name for name in NUSCENES_CAMERAS if name not in frame.images]
        if missing or not frame.lidar or frame.odom_from_ego is None:
            raise InvalidInputError(
                f"{config.name} trains on six cameras, LiDAR and the pose; missing: {missing or 'LiDAR or pose'}"
            )
        grid = VoxelGrid(config.grid_origin, config.voxel_size, config.grid_size)
        if label.ontology.name != config.label_set or label.grid != grid:
            raise InvalidInputError(
                f"{config.name} trains on {config.label_set} labels on {grid}, "
                f"got {label.ontology.name} labels on {label.grid}"
            )
        if config.mask_trained and label.mask_camera is None:
            raise InvalidInputError(f"{config.name} trains on voxels that a camera sees, but the labels have no mask")
        if config.flow and label.flow is None:
            raise InvalidInputError(f"{config.name} trains on flow, but the labels have none")

    def _view(self, frame: Frame, draw: Draw | None) -> _View:
        augmentations = [self._augmentation(frame, name, draw) for name in NUSCENES_CAMERAS]
        affines = torch.from_numpy(np.stack([augmentation.affine() for augmentation in augmentations]))
        inputs = ModelInput(frame, NUSCENES_CAMERAS, _ALL, None, affines)
        return _View(inputs, camera_poses(inputs), augmentations)

    def _augmentation(self, frame: Frame, name: str, draw: Draw | None) -> ImageAugmentation:
        """As published for 1600 pixel wide images; in proportion for others."""
        camera, (height, width) = frame.rig[name], self.config.image_size
        resize = self.config.resize * self.config.source_image_size[1] / camera.width
        if draw is None:
            return ImageAugmentation(resize, (width, height), (0, int(camera.height * resize) - height))
        share = resize / self.config.resize
        jitter = (-0.06 * share, 0.11 * share)
        return sample_image_augmentation(draw.frame, (camera.width, camera.height), (width, height), jitter)

    @staticmethod
    def _images(frame: Frame, augmentations: list[ImageAugmentation]) -> Tensor:
        """uint8 RGB [N, 3, H, W]."""
        pictures = []
        for name, augmentation in zip(NUSCENES_CAMERAS, augmentations, strict=True):
            image = frame.images[name]
            if not isinstance(image, CameraImage):
                raise InvalidInputError(f"{name}: training wants original images, not prepared ones")
            picture = augmentation.apply(Image.fromarray(decode_image(image.data)))
            pictures.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        return torch.stack(pictures)

    def _stereo(self, view: _View, previous: LabelledFrame | None) -> dict[str, Tensor]:
        """The previous images under this frame's augmentation, and the cameras' motion since."""
        frame = view.inputs.frame if previous is None else previous.frame
        missing = [name for name in NUSCENES_CAMERAS if name not in frame.images]
        if missing:
            raise InvalidInputError(f"stereo: the frame before has no image of {missing}")
        earlier = None if previous is None else camera_poses(ModelInput(frame, NUSCENES_CAMERAS, _ALL))
        motion, known, _ = stereo_motion(view.poses, earlier, torch.device("cpu"))
        images = self._images(frame, view.augmentations)
        return {"previous_images": images, "camera_motion": motion[0], "stereo_known": known[0]}

    def _lidar_targets(self, sample: LabelledFrame, view: _View) -> dict[str, Tensor]:
        config = self.config
        depth_range = (config.depth_start, config.depth_stop)
        maps = lidar_depth_maps(view.inputs, view.poses, depth_range, config.image_size, LIFTING_STRIDE)
        bins = [depth_bins(m.depth, config.depth_start, config.depth_step, config.depth_bins) for m in maps]
        targets = {"depth_bins": torch.stack(bins).to(torch.int16)}
        if self._image_labels:
            classes = _point_classes(sample)
            labels = [lidar_image_labels(m, classes) for m in maps]
            targets["image_labels"] = torch.stack(labels).to(torch.uint8)
        return targets

    def _grid_targets(self, label: GridLabel, flip: BevFlip) -> dict[str, Tensor]:
        """Labels [Y, X, Z] uint8 and, for flow variants, flow [Y, X, Z, 2]."""
        semantics = torch.from_numpy(np.where(label.semantics == FREE, self.config.free_class, label.semantics))
        mask = (
            torch.from_numpy(label.mask_camera) if self.config.mask_trained and label.mask_camera is not None else None
        )
        targets = {"voxel_labels": voxel_labels(semantics, mask, flip).to(torch.uint8)}
        if self.config.flow and label.flow is not None:
            targets["flow"] = flow_target(torch.from_numpy(label.flow), semantics, mask, flip=flip)
        return targets

    def network_inputs(self, batch: dict[str, Tensor], starts: tuple[bool, ...]) -> ALOccInputs:
        """Inputs of a collated batch on the network's device; streams that start are their own stereo partners."""
        motion, known = batch.get("camera_motion"), batch.get("stereo_known")
        previous = batch.get("previous_images")
        if motion is not None and any(starts):
            begun = torch.tensor(starts, device=motion.device)
            motion = torch.where(begun[:, None, None, None], torch.eye(4, device=motion.device), motion)
        return ALOccInputs(
            _normalised(batch["images"]),
            CameraTensors(*(batch[name] for name in CameraTensors._fields)),
            motion,
            batch["ego_motion"],
            starts=starts,
            stereo_known=known,
            lidar_depth=batch["depth_bins"].long(),
            previous_images=None if previous is None else _normalised(previous),
        )


def _normalised(images: Tensor) -> Tensor:
    """uint8 RGB [B, N, 3, H, W] to the network's float BGR (specs/alocc.md section 1)."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (_SPEC.mean, _SPEC.std))
    return (images.flip(2).float() - mean) / std


def _point_classes(sample: LabelledFrame) -> Tensor:
    """Class of the voxel that each LiDAR point falls into, int64 [P]; where it holds none, what becomes IGNORE."""
    frame, sweep, grid = sample.frame, sample.frame.lidar[-1], sample.label.grid
    anchor_from_lidar = sweep.ego_from_lidar
    if frame.odom_from_ego is not None and sweep.odom_from_ego is not None:
        anchor_from_lidar = inverse(frame.odom_from_ego) @ sweep.odom_from_ego @ sweep.ego_from_lidar
    points = sweep.points[:, :3].astype(np.float64)
    finite = np.asarray(np.isfinite(points).all(axis=1))
    in_grid = transform_points(inverse(sample.ego_from_grid) @ anchor_from_lidar, np.where(finite[:, None], points, 0))
    cells, inside = grid.cells_of(in_grid)
    classes = sample.label.semantics.ravel()[np.where(inside, grid.linear_index(cells), 0)]
    known = inside & finite & (classes < FREE)
    return torch.from_numpy(np.where(known, classes, IGNORE - 1).astype(np.int64))
