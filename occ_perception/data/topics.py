"""Which topics carry the cameras and the LiDAR: found from names and types alone, for the live graph and for bags.

Free of ROS: callers bring a list of (topic, type).  Nothing needs to be configured for drivers that follow the usual
names (``/<camera>/image_raw[/compressed]`` + ``/<camera>/camera_info``), and failures say what is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from occ_perception.errors import DatasetError, NoPathError
from occ_perception.geometry import TransformTree

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

BASE_FRAMES = ("base_link", "base_footprint", "ego_vehicle", "base")
"""Names of the vehicle's frame, most usual first."""
FIXED_FRAMES = ("odom", "map", "world")
"""Names of frames fixed in the world; continuous ones first, since temporal fusion must not see map corrections."""

_NOT_PICTURES = ("depth", "theora", "mask", "label", "segmentation", "disparity", "semantic")
_NOT_LIDAR = ("radar", "stereo", "depth", "perception", "occupancy", "voxels", "filtered", "ground")
_LIDAR_WORDS = ("lidar", "velodyne", "ouster", "hesai", "rslidar", "livox", "laser", "scan")


@dataclass(frozen=True)
class CameraTopics:
    """Topics of one camera.

    Attributes:
        name: of the camera: the part of its namespace that tells it from the others.
        image: topic of its images; image_type: `IMAGE` or `COMPRESSED_IMAGE`.
        info: topic of its CameraInfo, or None if there is none by a usual name.
        rectified: the images are rectified by name (``image_rect``), so their calibration is P, not K.
    """

    name: str
    image: str
    image_type: str
    info: str | None
    rectified: bool


@dataclass(frozen=True)
class SensorTopics:
    """What was found.

    Attributes:
        cameras: those with a calibration, sorted by name.
        uncalibrated: those without.
        lidar: topic of the LiDAR that is taken, or None; other_clouds: point clouds that are not.
        transforms: whether /tf and /tf_static are there.
    """

    cameras: tuple[CameraTopics, ...]
    uncalibrated: tuple[CameraTopics, ...]
    lidar: str | None
    other_clouds: tuple[str, ...]
    has_tf: bool
    has_tf_static: bool

    def camera(self, name: str) -> CameraTopics:
        """A camera by name.

        Raises:
            DatasetError: no such camera (the message lists them).
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise DatasetError(f"no camera '{name}'; calibrated cameras: {[c.name for c in self.cameras]}")


def detect_topics(
    topics: Iterable[tuple[str, str]],
    cameras: Sequence[str] = (),
    lidar: str | None = None,
    where: str = "here",
    calibrated: Sequence[str] = (),
) -> SensorTopics:
    """Find cameras with their calibration, and the LiDAR.

    Args:
        topics: (name, type), types as ``package/msg/Type``.
        cameras: names or image topics to take; empty = all that have a calibration.
        lidar: topic (or its namespace, e.g. ``lidar_top``) to take; None = the likeliest; "" = none.
        where: for messages, e.g. "bag drive.mcap".
        calibrated: names of cameras whose calibration is known without a topic.

    Raises:
        DatasetError: something asked for is not there; the message lists what is there and what was wanted.
    """
    known = sorted(set(topics))
    found = _find_cameras(known)
    missing = [wanted for wanted in cameras if not any(wanted in (c.name, c.image) for c in found)]
    if missing:
        raise _not_found(known, f"cameras {missing} (found: {[c.name for c in found]})", where)
    chosen = [c for c in found if not cameras or c.name in cameras or c.image in cameras]
    uncalibrated = tuple(c for c in chosen if c.info is None and c.name not in calibrated)
    if cameras and uncalibrated:
        wanted = [f"{_namespace(c.image)}/camera_info" for c in uncalibrated]
        raise _not_found(known, f"the calibration topics {wanted} of the cameras asked for", where)
    clouds = [name for name, kind in known if kind == POINT_CLOUD]
    taken = _choose_lidar(clouds) if lidar is None else _named_lidar(clouds, lidar)
    if lidar and taken is None:
        raise _not_found(known, f"LiDAR '{lidar}' (point clouds: {clouds})", where)
    types = dict(known)
    return SensorTopics(
        cameras=tuple(c for c in chosen if c not in uncalibrated),
        uncalibrated=uncalibrated,
        lidar=taken,
        other_clouds=tuple(c for c in clouds if c != taken),
        has_tf=types.get("/tf") == TRANSFORMS,
        has_tf_static=types.get("/tf_static") == TRANSFORMS,
    )


def configured_cameras(
    names: Sequence[str],
    images: Sequence[str],
    infos: Sequence[str],
    types: Mapping[str, str],
    calibrated: Collection[str] = (),
) -> list[CameraTopics]:
    """Cameras whose topics somebody named.

    Args:
        names, images: of the cameras and their image topics, in the same order.
        infos: their calibration topics, or empty: ``camera_info`` beside the images.
        types: types of the topics there are, by name; those not there yet are guessed from their names.
        calibrated: names of cameras whose calibration is known without a topic.
    """
    cameras = []
    for position, (name, image) in enumerate(zip(names, images, strict=True)):
        kind = types.get(image, COMPRESSED_IMAGE if image.endswith("compressed") else IMAGE)
        base = _base_topic(image, kind)
        beside = None if name in calibrated else f"{_namespace(base)}/camera_info"
        cameras.append(CameraTopics(name, image, kind, infos[position] if infos else beside, _names_rectified(base)))
    return cameras


def require_sensors(found: SensorTopics, topics: Iterable[tuple[str, str]], where: str = "here") -> SensorTopics:
    """Pass on what was found if perception can run on it at all.

    Raises:
        DatasetError: neither a calibrated camera nor a LiDAR, or no transforms.
    """
    if not found.cameras and found.lidar is None:
        raise _not_found(topics, "camera images with CameraInfo, or a LiDAR's PointCloud2", where)
    if not found.has_tf_static and not found.has_tf:
        raise _not_found(topics, "/tf_static or /tf (where the sensors are mounted)", where)
    return found


def lidar_name(topic: str, cameras: Sequence[str] = ()) -> str:
    """Name of a LiDAR: its topic's namespace, "lidar" if that says nothing; never that of a camera."""
    parts = topic.strip("/").split("/")
    name = parts[-2] if len(parts) > 1 else "lidar"
    return f"{name}_lidar" if name in cameras else name


def detect_frames(tree: TransformTree, sensor_frames: Sequence[str]) -> tuple[str, str | None]:
    """(vehicle frame, fixed frame or None) by usual names, among those joined to the sensors.

    Raises:
        NoPathError: no usual vehicle frame is joined to every sensor frame.
    """
    joined = (b for b in BASE_FRAMES if b in tree.frames and all(tree.has_path(b, s) for s in sensor_frames))
    base = next(joined, None)
    if base is None:
        known = sorted(tree.frames)
        raise NoPathError(f"none of {BASE_FRAMES} is joined to the sensors {list(sensor_frames)}; frames: {known}")
    fixed = next((f for f in FIXED_FRAMES if tree.has_path(f, base)), None)
    return base, fixed


def _not_found(topics: Iterable[tuple[str, str]], wanted: str, where: str) -> DatasetError:
    listed = ", ".join(f"{name} [{kind}]" for name, kind in sorted(topics)) or "no topics at all"
    return DatasetError(f"{where}: wanted {wanted}; it has {listed}")


def _namespace(topic: str) -> str:
    return topic.rsplit("/", 1)[0]


def _base_topic(image_topic: str, image_type: str) -> str:
    """The image_transport base topic."""
    suffix = "/compressed"
    compressed = image_type == COMPRESSED_IMAGE and image_topic.endswith(suffix)
    return image_topic[: -len(suffix)] if compressed else image_topic


def _names_rectified(base_topic: str) -> bool:
    """``image_rect``, ``image_rect_color``: images without distortion, by their name."""
    return "rect" in base_topic.rsplit("/", 1)[-1]


def _find_cameras(known: list[tuple[str, str]]) -> list[CameraTopics]:
    """One camera per namespace: rectified images if there are, compressed ones if there are."""
    infos = {name for name, kind in known if kind == CAMERA_INFO}
    by_namespace: dict[str, CameraTopics] = {}
    for topic, kind in known:
        if kind not in (IMAGE, COMPRESSED_IMAGE) or any(word in topic.lower() for word in _NOT_PICTURES):
            continue
        base = _base_topic(topic, kind)
        namespace = _namespace(base)
        candidates = [f"{namespace}/camera_info", f"{namespace}/info", f"{base}/camera_info"]
        info = next((c for c in candidates if c in infos), None)
        camera = CameraTopics(namespace, topic, kind, info, _names_rectified(base))
        rival = by_namespace.get(namespace)
        if rival is None or _preference(camera) > _preference(rival):
            by_namespace[namespace] = camera
    names = _short_names(list(by_namespace))
    cameras = [CameraTopics(names[n], c.image, c.image_type, c.info, c.rectified) for n, c in by_namespace.items()]
    return sorted(cameras, key=lambda c: c.name)


def _preference(camera: CameraTopics) -> tuple[bool, bool, bool]:
    return camera.info is not None, camera.rectified, camera.image_type == COMPRESSED_IMAGE


def _short_names(namespaces: list[str]) -> dict[str, str]:
    """Each namespace's last parts, as few as tell them apart, joined by "_"."""
    parts = {n: [p for p in n.split("/") if p] or ["camera"] for n in namespaces}
    longest = max((len(p) for p in parts.values()), default=1)
    names: dict[str, str] = {}
    for count in range(1, longest + 1):
        names = {n: "_".join(p[-count:]) for n, p in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _choose_lidar(clouds: list[str]) -> str | None:
    """The likeliest LiDAR: named as one, on top, raw rather than processed; None if no cloud may be one."""
    candidates = [c for c in clouds if not any(word in c.lower() for word in _NOT_LIDAR)]

    def score(topic: str) -> tuple[bool, bool, int]:
        lower = topic.lower()
        return any(w in lower for w in _LIDAR_WORDS), "top" in lower, -len(topic)

    return max(candidates, key=score, default=None)


def _named_lidar(clouds: list[str], wanted: str) -> str | None:
    name = wanted.strip("/")
    return next((c for c in clouds if c.strip("/") == name or _namespace(c).strip("/").split("/")[-1] == name), None)
