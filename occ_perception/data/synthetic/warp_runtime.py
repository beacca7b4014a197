"""NVIDIA Warp, the optional compiler of the world's kernels: imported when first needed, quiet, with named errors.

Modules named `_*_kernels.py` import Warp at the top and are themselves imported only inside functions, after
`load_kernels`; importing this package therefore never needs Warp.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from occ_perception.errors import ConfigurationError


def load_warp() -> ModuleType:
    """The module `warp`, initialised and silent but for errors.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import warp
    except ImportError as error:
        raise ConfigurationError(
            "the synthetic world is rendered with NVIDIA Warp, which is not installed: "
            "pip install occ_perception[world]"
        ) from error
    warp.config.log_level = warp.LOG_ERROR
    return warp


def load_kernels(name: str, device: str) -> ModuleType:
    """A module of kernels of this package, compiled for a device (from Warp's cache after the first time).

    Args:
        name: of the module within this package, e.g. "_raster_kernels".
        device: "cpu", "cuda", "cuda:1" ...

    Raises:
        ConfigurationError: no Warp, no such device, or its kernel cache cannot be written.
    """
    warp = load_warp()
    try:
        warp.init()
        warp.get_device(device)
        kernels = importlib.import_module(f"occ_perception.data.synthetic.{name}")
        warp.load_module(kernels, device=device)
    except OSError as error:
        raise ConfigurationError(
            f"Warp cannot keep its compiled kernels in {warp.config.kernel_cache_dir}: {error}; "
            "set WARP_CACHE_PATH to a folder that can be written"
        ) from error
    except (RuntimeError, ValueError) as error:
        known = [str(known_device) for known_device in warp.get_devices()]
        raise ConfigurationError(f"Warp cannot use device '{device}' (it knows {known}): {error}") from error
    return kernels
