"""Folding batch normalisation into the convolution before it, and the layout of weights, for inference."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv2d, nn.Conv3d)
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold_batch_norms(module: ModuleT) -> ModuleT:
    """Replace every convolution directly followed by its batch normalisation by one convolution, in place.

    A pair is two neighbours in the order of registration; every module of ours registers them so.  The network must be
    in evaluation mode and can afterwards neither be trained nor saved under its published names.
    """
    previous_name: str | None = None
    for name, child in list(module.named_children()):
        previous = getattr(module, previous_name) if previous_name is not None else None
        if isinstance(child, _NORMS) and isinstance(previous, _CONVS) and previous.out_channels == child.num_features:
            setattr(module, str(previous_name), fuse_conv_bn_eval(previous, child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous_name = name
    return module


def lay_out_channels_last(module: nn.Module) -> None:
    """Give the weights of all convolutions the memory format that suits channels-last maps, in place."""
    for convolution in module.modules():
        if isinstance(convolution, _CONVS):
            flat = isinstance(convolution, nn.Conv2d)
            layout = torch.channels_last if flat else torch.channels_last_3d
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=layout)
