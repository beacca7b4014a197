"""Six 1600x900 JPEGs to normalised network input (256x704), on two cores.

    python benchmarks/preprocess.py [--images FOLDER]

Without a folder of JPEGs, pictures with edges and noise are made (about 300 kB each, larger than nuScenes' 150 kB).
"""

from __future__ import annotations

import argparse
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import measure, report
from occ_perception.frame import CameraImage
from occ_perception.geometry import PinholeCamera
from occ_perception.image_codec import decode_image
from occ_perception.models.base import ImageSpec
from occ_perception.preprocessing import ImagePipeline, resize_and_crop

SPEC = ImageSpec(256, 704, bgr=True)
CAMERA = PinholeCamera(np.array([[1266.0, 0, 800], [0, 1266, 450], [0, 0, 1]]), np.eye(4), 1600, 900)


def made_up_jpegs() -> list[bytes]:
    """Six pictures with gradients, edges and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:900, 0:1600]
    jpegs = []
    for i in range(6):
        base = np.stack([x / 1600, y / 900, (x // (30 + i) + y // 40) % 2], axis=-1) * 200
        buffer = io.BytesIO()
        noisy = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        jpegs.append(buffer.getvalue())
    return jpegs


def main() -> None:
    """Measure each stage of one image, and the whole path of six."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder searched for *.jpg; the first six are used")
    arguments = parser.parse_args()
    found = sorted(arguments.images.rglob("*.jpg"))[:6] if arguments.images else []
    jpegs = [path.read_bytes() for path in found] or made_up_jpegs()
    torch.set_num_threads(1)  # one image per thread; two threads work on images
    pipeline = ImagePipeline(SPEC, torch.device("cpu"))
    names = tuple(f"camera{i}" for i in range(len(jpegs)))
    rgb = decode_image(jpegs[0])

    def whole(pool: ThreadPoolExecutor) -> torch.Tensor:
        prepared = pool.map(lambda data: pipeline.prepare("camera", CameraImage(0, data), CAMERA), jpegs)
        return pipeline.batch(names, dict(zip(names, prepared, strict=True)))

    size = sum(map(len, jpegs)) // len(jpegs) // 1000
    rows = [
        {"stage": "decode one", **measure(lambda: decode_image(jpegs[0]))},
        {"stage": "resize and crop one", **measure(lambda: resize_and_crop(rgb, SPEC))},
    ]
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            stage = f"{len(jpegs)} JPEGs of {size} kB to input, {threads} threads"
            rows.append({"stage": stage, **measure(lambda: whole(pool))})
    report("preprocess", rows)


if __name__ == "__main__":
    main()
