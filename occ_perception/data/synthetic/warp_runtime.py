"""NVIDIA Warp, the optional compiler of the world's kernels: imported when first needed, quiet, with named errors.

Modules named `_*_kernels.py` import Warp at the top and are themselves imported only inside functions, after
`load_kernels`; importing this package therefore never needs Warp.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from occ_perception.errors import ConfigurationError


def load_warp(device: str) -> ModuleType:
    """The module `warp`, initialised, silent but for errors, and sure of a device.

    Args:
        device: "cpu", "cuda", "cuda:1" ...

    Raises:
        ConfigurationError: Warp is not installed, or there is no such device.
    """
    try:
        import warp
    except ImportError as error:
        raise ConfigurationError(
            "the synthetic world needs NVIDIA Warp, which is not installed: pip install occ_perception[world]"
        ) from error
    warp.config.log_level = warp.LOG_ERROR
    with _cache_errors(warp):
        warp.init()
    try:
        warp.get_device(device)
    except (RuntimeError, ValueError) as error:
        known = [str(known_device) for known_device in warp.get_devices()]
        raise ConfigurationError(f"Warp has no device '{device}', only {known}: {error}") from error
    return warp


def load_kernels(name: str, device: str) -> ModuleType:
    """A module of kernels of this package, compiled for a device (from Warp's cache after the first time).

    Args:
        name: of the module within this package, e.g. "_raster_kernels".
        device: as for `load_warp`.

    Raises:
        ConfigurationError: as for `load_warp`; or the kernels' cache cannot be written, or they do not compile.
    """
    warp = load_warp(device)
    kernels = importlib.import_module(f"occ_perception.data.synthetic.{name}")
    with _cache_errors(warp):
        try:
            warp.load_module(kernels, device=device)
        except RuntimeError as error:
            raise ConfigurationError(f"Warp cannot compile {name} for device '{device}': {error}") from error
    return kernels


@contextmanager
def _cache_errors(warp: ModuleType) -> Iterator[None]:
    """What goes wrong with Warp's folder of compiled kernels, as one named error."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"Warp cannot keep its compiled kernels in {warp.config.kernel_cache_dir}: {error}; "
            "set WARP_CACHE_PATH to a folder that can be written"
        ) from error
