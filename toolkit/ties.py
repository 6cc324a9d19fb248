"""Means and products of int8 values whose results never lie halfway between two steps of their grid.

Runtimes compute them in float32, each in an order of its own. Where the exact result is a tie, or
nearly one, the last bit decides which way it is rounded, and pictures differ by a step. A whole
number times p/q, q odd, is never nearer to a tie than 1/(2 q): so the step of what is read (of a
product: both, multiplied) and the step of the result are given such a ratio.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .quantizer import MOVES

_aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_KEEPS = MOVES | {_aten.cat.default}
PARTS = range(65, 129, 2)  # denominators tried: a grid moves by 0.4 % at most


def tie_free(ratio: float) -> tuple[int, int]:
    """(p, q): the fraction nearest to `ratio`, above 0, whose q is odd and one of PARTS, or one of
    these times a power of 3 where the ratio is small."""
    odd = 1
    while ratio * odd * PARTS[0] < PARTS[0]:
        odd *= 3
    pairs = [(max(1, round(ratio * q * odd)), q * odd) for q in PARTS]
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - ratio))


def _rounded(node: Node) -> Node | None:
    """The rounding behind a node, and behind what only moves its result."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is _QUANTIZE:
            return node
        if node.target not in _KEEPS | {_aten.relu.default}:
            return None
    return None


def _change(rounding: Node, new: float) -> None:
    """Gives a rounding, and those of what is only moved from it, another step."""
    old = rounding.args[1]
    rounding.update_arg(1, new)
    for read in list(rounding.users):
        read.update_arg(1, new)
        for moved in list(read.users):
            if moved.target in _KEEPS:
                for again in list(moved.users):
                    if again.target is _QUANTIZE and again.args[1] == old:
                        _change(again, new)


def _step_read(node: Node) -> float:
    """The step of which the result is a whole multiple; 0 of what is no mean or product of int8."""
    if node.target is _aten.mean.dim:
        source: Any = node.args[0]
        if source.target is not _DEQUANTIZE:
            return 0.0
        step = float(source.args[1])
        while "val" not in source.meta and source.args:
            source = source.args[0]
        axes: Any = node.args[1]
        return step / float(math.prod(int(source.meta["val"].shape[axis]) for axis in axes))
    if node.target is _aten.mul.Tensor:
        factors: Any = node.args[:2]
        if all(isinstance(f, Node) and f.target is _DEQUANTIZE for f in factors):
            return math.prod(float(f.args[1]) for f in factors)
    return 0.0


def untie(quantized: GraphModule) -> int:
    """Moves the grids of means and products by less than a hundredth, in place, so that no result is
    a tie.

    Returns how many. What is not rounded at once stays.
    """
    count = 0
    for node in quantized.graph.nodes:
        step, result = _step_read(node), _rounded(node)
        if step == 0 or result is None:
            continue
        p, q = tie_free(step / float(result.args[1]))  # type: ignore[arg-type]
        _change(result, step * q / p)
        count += 1
    quantized.recompile()
    return count
