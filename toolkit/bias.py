"""Bias correction of a component's last layer: what int8 adds on average is taken away.

After Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV
2019), in its empirical form. Only the last layer: corrected all through, a trained decoder came
out 15 dB worse, because clipped tails, which a later ReLU drops, move the means of inner layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_LAYERS = (_aten.conv2d.default, _aten.linear.default)
_BIAS = 2  # its place among the arguments of both
ROUNDS = 3


def _last_bias(graph: GraphModule) -> Any:
    """The bias of the last layer, where it has one that no other layer reads; else None."""
    layers = [n for n in graph.graph.nodes if n.target in _LAYERS]
    bias = layers[-1].args[_BIAS] if layers and len(layers[-1].args) > _BIAS else None
    if not isinstance(bias, Node) or bias.op != "get_attr" or len(bias.users) != 1:
        return None
    tensor: Any = graph
    for part in str(bias.target).split("."):
        tensor = getattr(tensor, part)
    return tensor


@torch.no_grad()
def push_flat_outwards(graph: GraphModule, share: float = 0.015) -> bool:
    """Stretches what goes into a last clamp to [0, 1] about its middle, in place, by `share`.

    Rounding lifts some of what should be flat 0 or 1 into the range; a stretch puts it beyond the
    clamp again. On an earlier `emoji` 0.015, chosen among five values on its golden prompts,
    brought back flat ground from 98.9 to 99.2 % for 0.1 dB. The integers stay: only the last
    layer's scales and bias change. False where there is no such end.
    """
    ends = [n for n in graph.graph.nodes if n.target is _aten.hardtanh.default]
    bias = _last_bias(graph)
    if not ends or bias is None:
        return False
    layer = ends[-1].args[0]
    if tuple(ends[-1].args[1:3]) != (0.0, 1.0) or layer.target not in _LAYERS:
        return False
    weight = layer.args[1]
    if weight.op != "call_function" or weight.args[1].op != "get_attr":
        return False
    scale: Any = graph
    for part in str(weight.args[1].target).split("."):
        scale = getattr(scale, part)
    scale.data.mul_(1 + share)
    bias.data.sub_(0.5).mul_(1 + share).add_(0.5)
    return True


@torch.no_grad()
def correct_last_bias(
    quantized: GraphModule, inputs: Sequence[tuple[Tensor, ...]], targets: Sequence[Tensor]
) -> bool:
    """Changes the last layer's bias in place, so that the output's mean error becomes 0.

    inputs: what int8 components before this one give; targets: (1, C, …), what the float generator
    gives there. The error counts everywhere, and is shared out over the values inside the output's
    range, which alone can move: flat ground errs to one side only. False where the last layer has
    no bias of its own, or one that is not the output's channels or its single values.
    """
    bias = _last_bias(quantized)
    shape = targets[0].shape
    if bias is None or bias.numel() not in (shape[1], targets[0].numel()):
        return False
    axes = [a for a in range(len(shape)) if a != 1] if bias.numel() == shape[1] else [0]
    low, high = min(float(t.min()) for t in targets), max(float(t.max()) for t in targets)
    for _ in range(ROUNDS):
        error, inside = torch.zeros(bias.shape), torch.zeros(bias.shape)
        for row, target in zip(inputs, targets, strict=True):
            output = quantized(*row)
            error += (output - target).sum(axes).reshape(bias.shape)
            inside += ((output > low) & (output < high)).float().sum(axes).reshape(bias.shape)
        bias.data -= error / inside.clamp(min=1)
    return True
