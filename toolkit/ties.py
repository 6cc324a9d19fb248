"""int8 layers, sums, products, means and PReLUs whose results never lie halfway between two steps of their grid.

Runtimes scale whole numbers to the next grid in float32, each in an order of its own. Where the
exact result is a tie, or nearly one, the last bit decides which way it is rounded, and pictures
differ by a step. A whole number times p/q, q odd, is never nearer to a tie than 1/(2 q): so the step
of what is read (of a product: both, multiplied; of a layer: input and weight) and the step of the
result are given such a ratio. And what else stands between a layer and its rounding goes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from .observers import clamp_bounds
from .quantizer import ACTIVATIONS, MOVES, WEIGHTED, last_levels
from .rewriting import tensor_of

_aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_PER_CHANNEL = torch.ops.quantized_decomposed.dequantize_per_channel.default
_KEEPS = MOVES | {_aten.cat.default}
PARTS = range(65, 129, 2)  # denominators tried: a grid moves by 0.4 % at most
# Of the weights of a layer, where each output channel has a step of its own. The smaller q is, the
# further are results from ties: with q of 10,000, OpenVINO still left the graph in one value of a
# million, for its bias is added to a scaled sum. So the smallest q that moves a step by no more than
# SHIFT is taken, a 25th of a step of the largest weight.
WEIGHT_PARTS = np.arange(65, 2049, 2, dtype=np.float64)
SHIFT = 3e-4


def tie_free(ratio: float) -> tuple[int, int]:
    """(p, q): the fraction nearest to `ratio`, above 0, whose q is odd and one of PARTS, or one of
    these times a power of 3 where the ratio is small."""
    odd = 1
    while ratio * odd * PARTS[0] < PARTS[0]:
        odd *= 3
    pairs = [(max(1, round(ratio * q * odd)), q * odd) for q in PARTS]
    return min(pairs, key=lambda pair: abs(pair[0] / pair[1] - ratio))


def tie_free_sum(one: float, two: float) -> tuple[int, int, int]:
    """(p, r, q): p/q and r/q come nearest to two ratios above 0; q is odd and one of PARTS, or one of
    these times a power of 3 where a ratio is small."""
    odd = 1
    while min(one, two) * odd * PARTS[-1] < 16:
        odd *= 3

    def moved(p: int, r: int, q: int) -> float:
        return max(abs(p / q / one - 1), abs(r / q / two - 1))

    found = [(max(1, round(one * q * odd)), max(1, round(two * q * odd)), q * odd) for q in PARTS]
    return min(found, key=lambda triple: moved(*triple))


def tie_free_steps(ratios: np.ndarray) -> np.ndarray:
    """float64 (C,): fractions p/q, q odd and as small as it can be, that are within SHIFT of `ratios`,
    float64 (C,) above 0. q is one of WEIGHT_PARTS, or one of these times a power of 3 where a ratio
    is small."""
    found = np.array(ratios)
    left, q = np.flatnonzero(np.isfinite(ratios) & (ratios > 0)), WEIGHT_PARTS
    while len(left):
        wanted = ratios[left][:, None]
        tried = np.maximum(1, np.round(wanted * q)) / q
        near = np.abs(tried / wanted - 1) <= SHIFT
        found[left] = tried[np.arange(len(left)), near.argmax(1)]
        left, q = left[~near.any(1)], q * 3
    return found


def drop_clamps(graph: GraphModule) -> int:
    """Takes clamps out, in place, that the grid of what reads them makes anyway: its ends are theirs,
    to a step. Returns how many.

    A runtime then has nothing left to do between a layer and its rounding; with a clamp there
    OpenVINO drew 7 of 64 pictures otherwise. The clamp that a picture ends in stays.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.hardtanh.default or last_levels(node) is not None:
            continue
        users = list(node.users)
        if len(users) != 1 or users[0].target is not _QUANTIZE:
            continue
        scale, zero, least, most = (float(v) for v in users[0].args[1:5])
        low, high = clamp_bounds(node)
        ends = (least - zero) * scale, (most - zero) * scale
        if ends[0] < low - scale or ends[1] > high + scale:
            continue
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
        count += 1
    graph.recompile()
    return count


def _rounded(node: Node, fixed: bool = False) -> Node | None:
    """The rounding behind a node, its activation and what only moves its result; one to a fixed grid
    only where `fixed`."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is _QUANTIZE:
            return node
        if node.target not in _KEEPS | ACTIVATIONS or (last_levels(node) and not fixed):
            return None
    return None


def _alike(rounding: Node) -> set[Node]:
    """The roundings on one grid with this one: of what is moved from or to it, or joined with it."""
    grid, found, waiting = rounding.args[1:3], {rounding}, [rounding]
    while waiting:
        one = waiting.pop()
        source: Any = one.args[0]
        moves = [n for read in one.users for n in read.users if n.target in _KEEPS]
        near: list[Any] = [again for move in moves for again in move.users]
        for move in [*moves, source] if source.target in _KEEPS else moves:
            near += [p.args[0] for p in move.all_input_nodes if p.target is _DEQUANTIZE]
        new = {n for n in near if n.target is _QUANTIZE and n.args[1:3] == grid} - found
        found |= new
        waiting += new
    return found


def _first(rounding: Node) -> Node:
    return min(_alike(rounding))


def _origin(read: Node) -> Node:
    """The first rounding on the grid of a value that is read; of a constant the node that holds it."""
    rounding: Any = read.args[0]
    return _first(rounding) if rounding.target is _QUANTIZE else rounding


def _layer_of(rounding: Node) -> bool:
    """Whether it rounds what a layer gives, so that the layer's weights can follow its step."""
    if rounding.target is not _QUANTIZE:
        return False
    source: Any = rounding.args[0]
    if source.target in ACTIVATIONS and not last_levels(source):
        source = source.args[0]
    return source.target in WEIGHTED and _steps(source) is not None


def _change(rounding: Node, new: float) -> None:
    """Gives all roundings on a grid another step."""
    for one in _alike(rounding):
        one.update_arg(1, new)
        for read in list(one.users):
            read.update_arg(1, new)


def _step_read(node: Node) -> float:
    """The step of which the result is a whole multiple; 0 of what is no mean, product or PReLU of int8.

    Of a PReLU that holds above 0; below, its slopes follow (see `untie_slopes`).
    """
    if node.target is _aten.prelu.default:
        source: Any = node.args[0]
        return float(source.args[1]) if source.target is _DEQUANTIZE else 0.0
    if node.target is _aten.mean.dim:
        source = node.args[0]
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
    """Moves the grids of means, products, PReLUs and sums by less than a hundredth, in place, so that no result
    is a tie.

    Of a sum both ratios need one denominator: the grid of a term that a layer gives, and that nothing
    was fitted to before, is moved as well. Returns how many. What is not rounded at once stays, and so
    do sums of two terms whose grids are settled.
    """
    count = 0
    settled: set[Node] = set()
    for node in quantized.graph.nodes:
        step, result = _step_read(node), _rounded(node)
        if step and result is not None and _first(result) not in settled:
            p, q = tie_free(step / float(result.args[1]))  # type: ignore[arg-type]
            _change(result, step * q / p)
        elif not _untie_sum(node, settled):
            continue
        settled.update(_origin(read) for read in node.all_input_nodes if read.target is _DEQUANTIZE)
        if (last := _rounded(node, fixed=True)) is not None:
            settled.add(_first(last))
        count += 1
    quantized.recompile()
    return count


def _untie_sum(node: Node, settled: set[Node]) -> bool:
    result = _rounded(node, fixed=True)
    if node.target is not _aten.add.Tensor or len(node.kwargs) > 0 or result is None:
        return False
    terms: list[Any] = list(node.args[:2])
    if not all(isinstance(t, Node) and t.target is _DEQUANTIZE for t in terms):
        return False
    if _origin(terms[1]) in settled or not _layer_of(_origin(terms[1])):
        terms.reverse()
    two = _origin(terms[1])
    if two in settled or not _layer_of(two) or two is _origin(terms[0]):
        return False
    steps = [float(node.args[1]) for node in (*terms, result)]
    ratios = steps[0] / steps[2], steps[1] / steps[2]
    if _rounded(node) is None or _first(result) in settled:
        # The result's grid is fixed: does that of the other term fit it?
        fits = [q for q in range(1, PARTS[-1] + 1, 2) if _is_whole(ratios[0] * q)]
        if not fits:
            return False
        q = next((q for q in fits if ratios[1] * q > 16), fits[-1])
        _change(two, steps[2] * max(1, round(ratios[1] * q)) / q)
        return True
    p, r, q = tie_free_sum(*ratios)
    _change(result, steps[0] * q / p)
    _change(two, steps[0] / p * r)
    return True


def _is_whole(value: float) -> bool:
    return round(value) > 0 and abs(value / round(value) - 1) < 1e-6


def _steps(layer: Node) -> tuple[Node, Node] | None:
    """What a layer reads and the node that holds its weight's steps; None where either is float."""
    source, weight = layer.args[:2]
    if source.target is not _DEQUANTIZE or weight.target is not _PER_CHANNEL:  # type: ignore[union-attr]
        return None
    steps = weight.args[1]  # type: ignore[union-attr]
    if steps.op != "get_attr" or len(steps.users) != 1 or len(weight.users) != 1:  # type: ignore[union-attr]
        return None
    return source, steps  # type: ignore[return-value]


@torch.no_grad()
def untie_layers(quantized: GraphModule) -> int:
    """Moves the steps of weights, in place, by SHIFT at most, so that no result is a tie.

    For graphs whose other grids are settled, before biases are corrected and become whole steps. Returns how
    many layers.
    """
    count = 0
    for node in quantized.graph.nodes:
        found = _steps(node) if node.target in WEIGHTED else None
        result = _rounded(node, fixed=True)
        if found is None or result is None:
            continue
        tensor = tensor_of(quantized, found[1])
        unit = float(found[0].args[1]) / float(result.args[1])  # type: ignore[arg-type]
        ratios = tie_free_steps(tensor.double().numpy() * unit)
        tensor.data = torch.from_numpy(ratios / unit).to(tensor.dtype)
        count += 1
    return count


@torch.no_grad()
def untie_slopes(quantized: GraphModule) -> int:
    """Moves the slopes of PReLUs, in place, by SHIFT at most, so that no result below 0 is a tie.

    For graphs whose grids are settled. Returns how many PReLUs.
    """
    count = 0
    for node in quantized.graph.nodes:
        step, result = _step_read(node), _rounded(node)
        if node.target is not _aten.prelu.default or not step or result is None:
            continue
        slopes: Any = node.args[1]
        if slopes.op != "get_attr" or len(slopes.users) != 1:
            continue
        tensor = tensor_of(quantized, slopes)
        unit = step / float(result.args[1])  # type: ignore[arg-type]
        moved = tie_free_steps(tensor.double().abs().numpy() * unit) / unit
        tensor.data = tensor.sign() * torch.from_numpy(moved).to(tensor.dtype)
        count += 1
    return count
