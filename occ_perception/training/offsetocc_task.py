"""Training OffsetOcc's baseline (stage 1): frames to images and labels, the scene completion loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from occ_perception.checkpoints.backbones import load_resnet
from occ_perception.data.labels import GridLabel
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.frame import CameraImage
from occ_perception.image_codec import decode_image
from occ_perception.models.alocc_config import NUSCENES_CAMERAS
from occ_perception.models.base import ImageSpec, ModelInput
from occ_perception.models.camera_inputs import camera_poses, image_from_anchor
from occ_perception.models.offsetocc import OffsetOccBaseline, OffsetOccInputs
from occ_perception.models.offsetocc_config import OffsetOccConfig, offsetocc_config
from occ_perception.ontology import FREE, UNKNOWN
from occ_perception.training.activation_checkpointing import keep_no_activations
from occ_perception.training.augmentation import ImageAugmentation
from occ_perception.training.class_weights import class_counts, class_weights
from occ_perception.training.image_distortion import cut_out, grid_mask, photometric_distortion
from occ_perception.training.mask_loss import IGNORE
from occ_perception.training.panoptic_task import BaseScene
from occ_perception.training.semantic_scene_losses import scene_losses
from occ_perception.training.task import Draw, LabelledFrame, TaskDescription

_CAMERAS = len(NUSCENES_CAMERAS)


@dataclass(frozen=True)
class OffsetOccTaskSettings:
    """What a training run of the baseline may vary.

    Attributes:
        variant: offsetocc-baseline or offsetocc-small-baseline.
        backbone_weights: torchvision's ImageNet file of the ResNet; its stem, first stage and normalisation are then
            frozen, and the rest learns slower.  "" = random, and everything learns alike.
        backbone_learning_rate: of a pretrained backbone, relative to the rest.
        camera_mask: leave voxels that no camera sees out of the losses; the paper does not.
        grid_mask: share of frames with squares cut out of the images.
        photometric: whether colours are varied.
        activation_checkpointing: compute the activations of backbone and encoder twice instead of keeping them; batch
            statistics then count twice in the running averages.
    """

    variant: str = "offsetocc-baseline"
    backbone_weights: str = ""
    backbone_learning_rate: float = 0.1
    camera_mask: bool = False
    grid_mask: float = 0.7
    photometric: bool = True
    activation_checkpointing: bool = False


class OffsetOccTask:
    """`TrainingTask` of the baseline, and a `BaseTask` for what is trained on top of it.

    Args:
        settings: see there.
        config: of the network; None: that of the variant.

    Raises:
        ConfigurationError: no such variant, or one with the modules of stage 2.
        WeightsError: the backbone's weights do not fit.
    """

    needs_previous = False

    def __init__(self, settings: OffsetOccTaskSettings | None = None, config: OffsetOccConfig | None = None) -> None:
        self.settings = settings = settings or OffsetOccTaskSettings()
        self.config = config = config or offsetocc_config(settings.variant)
        if config.panoptic is not None:
            raise ConfigurationError(
                f"variant {config.name}: stage 1 trains a baseline, such as {config.name}-baseline"
            )
        network = OffsetOccBaseline(config)
        if settings.backbone_weights:
            load_resnet(network.backbone, settings.backbone_weights)
            network.backbone.freeze_beginning()
        if settings.activation_checkpointing:
            backbone = network.backbone
            keep_no_activations(
                [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4, *network.encoder.layers]
            )
        self.network: nn.Module = network
        self.description = TaskDescription(config.name, config.label_set, settings.camera_mask)
        self._class_weight = class_weights(class_counts(config.label_set))[1:]

    # -- in loader processes

    def prepare(self, sample: LabelledFrame, previous: LabelledFrame | None, draw: Draw | None) -> dict[str, Tensor]:
        """See `TrainingTask.prepare`."""
        augmentations = [self._to_network_size(sample, name) for name in NUSCENES_CAMERAS]
        images = [self._image(sample, name, a) for name, a in zip(NUSCENES_CAMERAS, augmentations, strict=True)]
        if draw is not None:
            images = self._distorted(images, draw.frame)
        return {
            "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            "image_from_grid": self._projections(sample, augmentations),
            "labels": self._labels(sample.label),
        }

    def _to_network_size(self, sample: LabelledFrame, name: str) -> ImageAugmentation:
        height, width = self.config.image_size
        camera = sample.frame.rig.get(name)
        source = (camera.width, camera.height) if camera else (width, height)
        resize = width / source[0]
        return ImageAugmentation(resize, (width, height), (0, int(source[1] * resize) - height))

    def _image(self, sample: LabelledFrame, name: str, augmentation: ImageAugmentation) -> np.ndarray:
        """uint8 RGB [H, W, 3]; black for a camera that delivered nothing."""
        image = sample.frame.images.get(name)
        if image is None:
            return np.zeros((*self.config.image_size, 3), np.uint8)
        if not isinstance(image, CameraImage):
            raise InvalidInputError("training wants original images, not prepared ones")
        return np.asarray(augmentation.apply(Image.fromarray(decode_image(image.data))))

    def _distorted(self, images: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
        """Colours of every image on its own, squares cut out of all alike."""
        if self.settings.photometric:
            images = [photometric_distortion(image, random) for image in images]
        if random.random() < self.settings.grid_mask:
            kept = grid_mask(*self.config.image_size, random)
            images = [cut_out(image, kept) for image in images]
        return images

    def _projections(self, sample: LabelledFrame, augmentations: list[ImageAugmentation]) -> Tensor:
        """Grid of the label to network pixels, float32 [N, 4, 4]; zero for a camera that delivered nothing."""
        present = tuple(name in sample.frame.images for name in NUSCENES_CAMERAS)
        affines = torch.from_numpy(np.stack([augmentation.affine() for augmentation in augmentations]))
        inputs = ModelInput(sample.frame, NUSCENES_CAMERAS, present, None, affines)
        projections = np.zeros((_CAMERAS, 4, 4))
        if any(present):
            projections[np.array(present)] = image_from_anchor(inputs, camera_poses(inputs)) @ sample.ego_from_grid
        return torch.from_numpy(projections).float()

    def _labels(self, label: GridLabel) -> Tensor:
        """Network classes, uint8 [X, Y, Z], 255 ignored."""
        if label.grid != self.config.grid or label.ontology.name != self.config.label_set:
            raise InvalidInputError(
                f"{self.config.name}: expected {self.config.label_set} labels on {self.config.grid}, "
                f"got {label.ontology.name} on {label.grid}"
            )
        classes = np.where(label.semantics == FREE, self.config.free_class, label.semantics)
        ignored = label.semantics == UNKNOWN
        if self.settings.camera_mask and label.mask_camera is not None:
            ignored = ignored | ~label.mask_camera
        return torch.from_numpy(np.where(ignored, IGNORE, classes).astype(np.uint8))

    # -- in the training process

    def losses(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...], iteration: int
    ) -> tuple[dict[str, Tensor], Any]:
        """See `TrainingTask.losses`."""
        output = network(network_inputs(batch))
        weight = self._class_weight.to(output.logits.device)
        return scene_losses(output.logits, batch["labels"], weight, self.config.free_class), None

    def scene(self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]) -> BaseScene:
        """See `BaseTask.scene`."""
        output = network(network_inputs(batch))
        classes = output.logits.argmax(dim=1)
        semantics = torch.where(classes == self.config.free_class, FREE, classes).to(torch.uint8)
        return BaseScene(semantics, output.voxel_features, None)

    def evaluate(
        self, network: nn.Module, batch: dict[str, Tensor], state: Any, starts: tuple[bool, ...]
    ) -> tuple[Tensor, Any]:
        """See `TrainingTask.evaluate`."""
        return self.scene(network, batch, state, starts).semantics, None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `TrainingTask.parameter_groups`."""
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        scale = self.settings.backbone_learning_rate if self.settings.backbone_weights else 1.0
        return [
            {"params": [p for name, p in named if not name.startswith("backbone.")]},
            {"params": [p for name, p in named if name.startswith("backbone.")], "lr_scale": scale},
        ]


def network_inputs(batch: dict[str, Tensor]) -> OffsetOccInputs:
    """A batch of `OffsetOccTask.prepare`, normalised."""
    images = batch["images"]
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (ImageSpec.mean, ImageSpec.std))
    return OffsetOccInputs((images.float() - mean) / std, batch["image_from_grid"])
