"""Means of int8 values whose results never lie halfway between two steps of their grid.

A runtime adds the numbers of a mean in an order of its own. Where the exact result is a tie, or
nearly one, float32 rounding decides which way it goes, and pictures differ by a step. With a ratio
of steps p/q, q odd, a sum of whole numbers times p/q is never nearer to a tie than 1/(2 q).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_MOVES = (_aten.flatten.using_ints, _aten.view.default, _aten.reshape.default)
PARTS = range(65, 129, 2)  # denominators tried: a grid moves by 0.4 % at most


def tie_free(ratio: float) -> tuple[int, int]:
    """(p, q): the fraction nearest to `ratio`, above 0, whose q is odd and one of PARTS, or one of
    these times a power of 3 where the ratio is small."""
    odd = 1
    while ratio * odd * PARTS[0] < PARTS[0]:
        odd *= 3
    pairs = [(max(1, round(ratio * q * odd)), q * odd) for q in PARTS]
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - ratio))


def _rounded(mean: Node) -> Node | None:
    """The rounding behind a mean, and behind what only moves it."""
    node = mean
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is _QUANTIZE:
            return node
        if node.target not in _MOVES:
            return None
    return None


def untie_means(quantized: GraphModule) -> int:
    """Moves the grids of means by less than a hundredth, in place, so that no result is a tie.

    Returns how many. A mean that does not read int8, or is not rounded at once, stays.
    """
    count = 0
    for node in quantized.graph.nodes:
        if node.target is not _aten.mean.dim or node.args[0].target is not _DEQUANTIZE:
            continue
        result = _rounded(node)
        if result is None:
            continue
        source: Any = node.args[0]
        while "val" not in source.meta and source.args:
            source = source.args[0]
        many = math.prod(int(source.meta["val"].shape[axis]) for axis in node.args[1])
        step: Any = node.args[0].args[1]
        old: Any = result.args[1]
        p, q = tie_free(step / (many * old))
        new = step * q / (many * p)
        for changed in (result, *result.users):
            changed.update_arg(1, new)
        count += 1
    quantized.recompile()
    return count
