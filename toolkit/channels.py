"""Layers with fewer channels: one slicing, used when pruning and when a pruned generator is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

# Layer → side ("in", "out") → indices of the channels that stay, counted on the constructor's layer.
# A parameter that belongs to no layer has the sides "axis0", "axis1", …
Kept = Mapping[str, Mapping[str, tuple[int, ...]]]
_CHANNELWISE = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
SLICED = (_ConvNd, nn.Linear, *_CHANNELWISE, nn.PReLU)


def width(module: nn.Module, side: str) -> int | None:
    """Channels of a layer on a side, "in" or "out"; None where a layer has none of its own."""
    if isinstance(module, _ConvNd):
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if side == "in":
        return None
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        return module.num_features
    if isinstance(module, nn.PReLU):
        return module.num_parameters if module.num_parameters > 1 else None
    return None


def by_group(module: _ConvNd) -> Tensor:
    """A convolution's weights as (groups, out in a group, in in a group, places)."""
    w, g = module.weight.detach(), module.groups
    if module.transposed:
        return w.reshape(g, w.shape[0] // g, w.shape[1], -1).transpose(1, 2)
    return w.reshape(g, w.shape[0] // g, w.shape[1], -1)


def squared_norms(module: nn.Module, side: str) -> Tensor:
    """Sum of squared weights that each channel of a convolution or linear layer touches."""
    if isinstance(module, _ConvNd):
        w = by_group(module)
        return w.square().sum((2, 3) if side == "out" else (1, 3)).flatten()
    assert isinstance(module, nn.Linear)
    return module.weight.detach().square().sum(1 if side == "out" else 0)


def _select(module: nn.Module, name: str, axis: int, indices: Sequence[int]) -> None:
    old = getattr(module, name)
    if old is None:
        return
    picked = old.detach().index_select(axis, torch.tensor(indices, dtype=torch.long)).clone()
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(picked, requires_grad=old.requires_grad))
    else:
        setattr(module, name, picked)


def _blocks(kept: Sequence[int], channels: int, groups: int) -> int:
    """How many groups stay; ValueError where a group stays in part."""
    size = channels // groups
    left = {i // size for i in kept}
    if len(left) * size != len(kept):
        raise ValueError("a group of channels would be cut in two")
    return len(left)


def _slice_conv(module: _ConvNd, kept: Mapping[str, tuple[int, ...]]) -> None:
    outs = kept.get("out", tuple(range(module.out_channels)))
    ins = kept.get("in", tuple(range(module.in_channels)))
    out_axis, in_axis = (1, 0) if module.transposed else (0, 1)
    if module.groups == 1:
        _select(module, "weight", out_axis, outs)
        _select(module, "weight", in_axis, ins)
    else:
        groups = _blocks(outs, module.out_channels, module.groups)
        if groups != _blocks(ins, module.in_channels, module.groups):
            raise ValueError("a grouped convolution loses whole groups or none")
        _select(module, "weight", 0, ins if module.transposed else outs)
        module.groups = groups
    _select(module, "bias", 0, outs)
    module.out_channels, module.in_channels = len(outs), len(ins)


def _slice_layer(module: nn.Module, kept: Mapping[str, tuple[int, ...]]) -> None:
    if isinstance(module, _ConvNd):
        _slice_conv(module, kept)
    elif isinstance(module, nn.Linear):
        if "out" in kept:
            _select(module, "weight", 0, kept["out"])
            _select(module, "bias", 0, kept["out"])
            module.out_features = len(kept["out"])
        if "in" in kept:
            _select(module, "weight", 1, kept["in"])
            module.in_features = len(kept["in"])
    elif isinstance(module, _CHANNELWISE):
        if isinstance(module, nn.GroupNorm):
            module.num_groups = _blocks(kept["out"], module.num_channels, module.num_groups)
            module.num_channels = len(kept["out"])
        else:
            module.num_features = len(kept["out"])
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, name, None) is not None:
                _select(module, name, 0, kept["out"])
    elif isinstance(module, nn.PReLU):
        _select(module, "weight", 0, kept["out"])
        module.num_parameters = len(kept["out"])
    else:
        raise ValueError(f"{type(module).__name__} can not lose channels")


def keep(model: nn.Module, kept: Kept) -> None:
    """Leaves `kept` of the channels, in place.

    Raises ValueError, IndexError, AttributeError or KeyError where `kept` does not fit the model.
    """
    for name, sides in kept.items():
        axes = {side: ids for side, ids in sides.items() if side.startswith("axis")}
        if axes:
            parent, _, leaf = name.rpartition(".")
            for side, indices in axes.items():
                _select(model.get_submodule(parent), leaf, int(side[4:]), indices)
        else:
            _slice_layer(model.get_submodule(name), sides)


def compose(first: Kept, then: Kept) -> dict[str, dict[str, tuple[int, ...]]]:
    """`then`, which counts on layers that `first` has sliced already, counted on the constructor's."""
    both = {name: dict(sides) for name, sides in first.items()}
    for name, sides in then.items():
        row = both.setdefault(name, {})
        for side, indices in sides.items():
            row[side] = tuple(row[side][i] for i in indices) if side in row else tuple(indices)
    return both
