"""What a user may change of objects and their tracks."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.errors import ConfigurationError


@dataclass(frozen=True)
class TrackingSettings:
    """Objects and their identities.

    Attributes:
        enabled: identities last over time; otherwise objects are numbered 1, 2, ... anew in every frame.
        memory_s: how long an object that is not seen keeps its identity, seconds; 0 = it is gone at once.
        confirm_frames: an object that is not seen is listed as occluded only if it was seen in so many frames before.
            Objects that are seen are listed at once, whatever this is.
        connect_voxels: for models that give classes but no instances, see `connected_instances`.

    Raises:
        ConfigurationError: a time or a number that cannot be.
    """

    enabled: bool = True
    memory_s: float = 1.0
    confirm_frames: int = 2
    connect_voxels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.memory_s < 1e6 or self.confirm_frames < 1:
            raise ConfigurationError(
                f"tracking: expected a memory of 0 s or more and 1 frame or more, got {self.memory_s} and "
                f"{self.confirm_frames}"
            )
