"""StyleGAN2's modulated convolutions, written with static weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .rewriting import FLOAT, argument, hold, shape, static, value, write

_aten = torch.ops.aten
_SHAPES = (_aten.view.default, _aten.reshape.default, _aten.unsqueeze.default, _aten.squeeze.dim)


def replace_modulated(graph: GraphModule) -> int:
    """A convolution whose weights are scaled at run time → scale, static convolution, scale.

    conv(x, w · s · d) = d · conv(x · s, w), where s is one number for each input channel and d one
    for each output channel (Karras et al., "Analyzing and improving the image quality of StyleGAN",
    CVPR 2020, section 2.2). For batch 1, as everything here is exported.
    """
    count = 0
    for conv in list(graph.graph.nodes):
        if conv.target is not _aten.conv2d.default or not isinstance(conv.args[1], Node):
            continue
        weight = conv.args[1]
        groups = int(argument(conv, "groups", 1))
        if weight.op == "get_attr" or groups != 1 or shape(conv)[:1] != (1,):
            continue
        found = _factors(weight, shape(weight))
        if found is None or not (found[1] or found[2]):
            continue
        bare, before, after = found
        weights = value(graph, bare).reshape(shape(weight))
        kept = hold(graph, f"_static_{weight.name}", weights, conv)
        bias = argument(conv, "bias")
        rest = conv.args[3:]
        inputs = [conv.args[0], kept, *before, *after, *([bias] if isinstance(bias, Node) else [])]

        def written(
            x: Tensor, w: Tensor, *others: Tensor, ins: int = len(before), outs: int = len(after),
            rest: tuple[Any, ...] = rest,
        ) -> Tensor:  # fmt: skip
            for s in others[:ins]:
                x = x * s.reshape(1, -1, 1, 1)
            y = _aten.conv2d.default(x, w, None, *rest)
            for d in others[ins : ins + outs]:
                y = y * d.reshape(1, -1, 1, 1)
            for b in others[ins + outs :]:
                y = y + b.reshape(1, -1, 1, 1)
            return y  # type: ignore[no-any-return]

        for factor in (*before, *after):
            _keep_float(factor)
        write(graph, conv, written, inputs, in_float=False)
        count += 1
    return count


def replace_demodulation(graph: GraphModule) -> int:
    """Σ (w · s)² over all but the output channels → (Σ w²) · s², a product of a matrix and a vector."""
    count = 0
    for node in list(graph.graph.nodes):
        square = node.args[0] if node.target is _aten.sum.dim_IntList else None
        scaled = _squared(square)
        sizes = tuple(n for n in shape(scaled) if n)
        if scaled is None or len(sizes) != 5 or sizes[0] != 1:
            continue
        if sorted(a % 5 for a in node.args[1]) != [2, 3, 4]:
            continue
        found = _factors(scaled, sizes[1:])
        if found is None or not found[1] or found[2]:
            continue
        squares = value(graph, found[0]).reshape(sizes[1:]).square().sum((2, 3))
        kept = hold(graph, f"_squares_{node.name}", squares, node)

        def written(w: Tensor, *factors: Tensor, out: tuple[int, ...] = shape(node)) -> Tensor:
            row = factors[0].reshape(1, -1)
            for factor in factors[1:]:
                row = row * factor.reshape(1, -1)
            return torch.matmul(w, (row * row).mT).reshape(out)

        write(graph, node, written, [kept, *found[1]], in_float=True)
        count += 1
    return count


def _squared(node: Any) -> Node | None:
    """x of x², however it is written."""
    if not isinstance(node, Node):
        return None
    if node.target is _aten.pow.Tensor_Scalar and node.args[1] == 2:
        return node.args[0]  # type: ignore[return-value]
    if node.target is _aten.square.default:
        return node.args[0]  # type: ignore[return-value]
    same = node.target is _aten.mul.Tensor and node.args[0] is node.args[1]
    return node.args[0] if same else None  # type: ignore[return-value]


def _factors(weight: Node, sizes: tuple[int, ...]) -> tuple[Node, list[Node], list[Node]] | None:
    """(static weights, factors by input channel, by output channel), where the weights are these."""
    size = int(torch.Size(sizes).numel())
    before: list[Node] = []
    after: list[Node] = []
    node: Any = weight
    while not static(node):
        if not isinstance(node, Node) or tuple(n for n in shape(node) if n)[-4:] != sizes:
            return None
        if node.target in _SHAPES:
            node = node.args[0]
            continue
        if node.target is not _aten.mul.Tensor:
            return None
        pair = sorted(node.args[:2], key=lambda n: -int(torch.Size(shape(n)).numel()))
        factor = pair[1]
        axes = ((1,) * 4 + shape(factor))[-4:]
        if not isinstance(factor, Node) or int(torch.Size(shape(pair[0])).numel()) != size:
            return None
        if axes == (1, sizes[1], 1, 1):
            before.append(factor)
        elif axes == (sizes[0], 1, 1, 1):
            after.append(factor)
        else:
            return None
        node = pair[0]
    return (node, before, after) if isinstance(node, Node) else None


def _keep_float(node: Node) -> None:
    """What makes a factor out of weights and styles stays float: int8 would round the weights."""
    if node.op != "call_function" or FLOAT in node.meta or len(shape(node)) < 3:
        return
    node.meta[FLOAT] = True
    for other in node.all_input_nodes:
        _keep_float(other)
