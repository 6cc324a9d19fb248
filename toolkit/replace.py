"""Operators that targets take badly, written in ones that they all take: small passes over a graph.

A pass finds its operator in the graph that torch.export gave and puts other operators, which compute
the same, in its place. Whatever was replaced is proved on the example inputs: below 100 dB the graph
stays as it was.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from genedge.runtime.metrics import sqnr

from .folding import fold_constants, fold_scale
from .generator import Generator
from .modulated import replace_demodulation, replace_modulated
from .pipeline import SampledGenerator
from .programs import example_inputs, export_module
from .rewriting import argument, shape, write

PROOF_DB = 100.0
_LAYERS = ("aten.conv", "aten.linear")  # that a batch norm behind them is folded into
_aten = torch.ops.aten
_NEAREST = (_aten.upsample_nearest2d.vec, _aten.upsample_nearest2d.default)


def float_graph(module: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """The module's graph, with known operators replaced where that changes nothing.

    Raises what `export_module` raises.
    """
    graph = export_module(module, example).module()
    assert isinstance(graph, GraphModule)
    changed = copy.deepcopy(graph)
    if not sum(replace(changed) for replace in PASSES):
        return graph
    changed.graph.eliminate_dead_code()
    changed.recompile()
    return changed if _decibels(changed, graph, example) >= PROOF_DB else graph


def float_programs(generator: Generator) -> dict[str, ExportedProgram]:
    """One program per component. A pipeline's stay as they are: proofs would copy its weights."""
    tensors = generator.example()
    if isinstance(generator, SampledGenerator):
        return {
            c.name: export_module(c.module.eval(), example_inputs(generator, c, tensors))
            for c in generator.components
        }
    found = {}
    for c in generator.components:
        example = example_inputs(generator, c, tensors)
        found[c.name] = export_module(float_graph(c.module.eval(), example), example)
    return found


@torch.no_grad()
def _decibels(one: nn.Module, other: nn.Module, example: tuple[Tensor, ...]) -> float:
    pairs = []
    for graph in (one, other):
        results = graph(*example)
        pairs.append(results if isinstance(results, tuple) else (results,))
    return min(sqnr(a.numpy(), b.numpy()) for a, b in zip(*pairs, strict=True))


def group_norm(x: Tensor, groups: int, eps: float) -> Tensor:
    """Normalisation without scale and shift: mean and variance of 4-D tensors over their last two
    axes, which every target has (Wu and He, "Group normalization", ECCV 2018)."""
    batch, channels = x.shape[:2]
    rows = x.reshape(batch, groups, channels // groups, -1)
    centred = rows - rows.mean((2, 3), keepdim=True)
    variance = (centred * centred).mean((2, 3), keepdim=True)
    return (centred * torch.rsqrt(variance + eps)).reshape(x.shape)


def replace_group_norm(graph: GraphModule) -> int:
    """aten.group_norm (and instance_norm of torch in evaluation) → mean, product, rsqrt."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.group_norm.default or len(shape(node.args[0])) not in (3, 4):
            continue
        groups, eps = int(argument(node, "num_groups")), float(argument(node, "eps", 1e-5))
        given = [argument(node, n) for n in ("weight", "bias")]
        wide = (1, -1, *[1] * (len(shape(node.args[0])) - 2))

        def written(
            x: Tensor, *affine: Tensor, groups: int = groups, eps: float = eps,
            kinds: tuple[bool, ...] = tuple(isinstance(g, Node) for g in given),
            wide: tuple[int, ...] = wide,
        ) -> Tensor:  # fmt: skip
            x, rest = group_norm(x, groups, eps), iter(affine)
            x = x * next(rest).view(wide) if kinds[0] else x
            return x + next(rest).view(wide) if kinds[1] else x

        inputs = [node.args[0], *(g for g in given if isinstance(g, Node))]
        write(graph, node, written, inputs, in_float=True)
        count += 1
    return count


def _with_bias(layer: Node) -> list[Node]:
    """A convolution's input, weights, and bias where it has one."""
    given = (*layer.args[:2], argument(layer, "bias"))
    return [g for g in given if isinstance(g, Node)]


def replace_rows(graph: GraphModule) -> int:
    """conv1d → conv2d of pictures that are one row high, as int8 knows it. ExecuTorch can not lower a
    float one behind int8."""
    count = 0
    for node in list(graph.graph.nodes):
        known = node.target in (_aten.conv1d.default, _aten.conv1d.padding)
        if not known or len(shape(node.args[0])) != 3:
            continue
        stride, dilation = (int(argument(node, n, [1])[0]) for n in ("stride", "dilation"))
        padding, groups = argument(node, "padding", [0]), int(argument(node, "groups", 1))
        padding = padding if isinstance(padding, str) else (0, int(padding[0]))

        def written(
            x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
            padding: str | tuple[int, int] = padding, stride: int = stride,
            dilation: int = dilation, groups: int = groups,
        ) -> Tensor:  # fmt: skip
            tall, steps = weight.unsqueeze(2), ((1, stride), (1, dilation))
            x = torch.conv2d(x.unsqueeze(2), tall, bias, steps[0], padding, steps[1], groups)
            return x.flatten(2)

        write(graph, node, written, _with_bias(node), in_float=False)
        count += 1
    return count


def replace_padding(graph: GraphModule) -> int:
    """conv2d with padding "same" or "valid" → with numbers, as int8 knows it."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.conv2d.padding:
            continue
        word = argument(node, "padding", "valid")
        stride, dilation = (argument(node, n, [1, 1]) for n in ("stride", "dilation"))
        groups, kernel = argument(node, "groups", 1), shape(node.args[1])[2:]
        around = [
            d * (k - 1) if word == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        least, more = [a // 2 for a in around], [a % 2 for a in around]  # torch's more is behind

        def written(
            x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
            more: tuple[int, ...] = tuple(more), least: tuple[int, ...] = tuple(least),
            stride: tuple[int, ...] = tuple(stride), dilation: tuple[int, ...] = tuple(dilation),
            groups: int = groups,
        ) -> Tensor:  # fmt: skip
            x = F.pad(x, (0, more[1], 0, more[0])) if any(more) else x
            return torch.conv2d(x, weight, bias, stride, least, dilation, groups)

        write(graph, node, written, _with_bias(node), in_float=False)
        count += 1
    return count


def replace_norm(graph: GraphModule) -> int:
    """Batch norm that can not be folded into the layer before it → scale and shift.

    Where others read that layer, or its weights, folding would change what they read; a norm without
    running statistics takes the picture's own.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.batch_norm.default or len(shape(node.args[0])) not in (3, 4):
            continue
        layer, wide = node.args[0], (1, -1, *[1] * (len(shape(node.args[0])) - 2))
        given = [argument(node, n) for n in ("weight", "bias", "running_mean", "running_var")]
        kinds, eps = tuple(isinstance(g, Node) for g in given), float(argument(node, "eps"))
        own = not all(kinds[2:])
        folded = layer.op == "call_function" and str(layer.target).startswith(_LAYERS)
        if not own and not (folded and max(len(n.users) for n in (layer, layer.args[1])) > 1):
            continue

        def written(
            x: Tensor, *rest: Tensor, kinds: tuple[bool, ...] = kinds, eps: float = eps,
            wide: tuple[int, ...] = wide, own: bool = own,
        ) -> Tensor:  # fmt: skip
            left = iter(rest)
            scale, shift, mean, variance = (next(left) if k else None for k in kinds)
            if own:
                x = group_norm(x, x.shape[1], eps)
            else:
                assert mean is not None
                assert variance is not None
                x = (x - mean.view(wide)) * torch.rsqrt(variance + eps).view(wide)
            x = x * scale.view(wide) if scale is not None else x
            return x + shift.view(wide) if shift is not None else x

        inputs = [node.args[0], *(g for g in given if isinstance(g, Node))]
        write(graph, node, written, inputs, in_float=True)
        count += 1
    return count


def replace_attention(graph: GraphModule) -> int:
    """scaled_dot_product_attention without mask → product, softmax, product."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.scaled_dot_product_attention.default:
            continue
        mask, causal = argument(node, "attn_mask"), argument(node, "is_causal", False)
        if isinstance(mask, Node) or causal or argument(node, "enable_gqa", False):
            continue
        scale = argument(node, "scale") or shape(node.args[0])[-1] ** -0.5

        def written(q: Tensor, k: Tensor, v: Tensor, scale: float = float(scale)) -> Tensor:
            return torch.matmul(torch.softmax(torch.matmul(q * scale, k.mT), -1), v)

        write(graph, node, written, node.args[:3], in_float=True)
        count += 1
    return count


def nearest(x: Tensor, tall: int, wide: int) -> Tensor:
    """Each pixel `tall` times below and `wide` times beside itself, by concatenation alone."""
    n, c, h, w = x.shape
    x = torch.cat([x.reshape(n, c * h, w, 1)] * wide, 3).reshape(n, c * h, 1, w * wide)
    return torch.cat([x] * tall, 2).reshape(n, c, h * tall, w * wide)


def replace_nearest(graph: GraphModule) -> int:
    """Enlargement by a whole factor → concatenation, which every target takes into its delegate.

    An enlarged input stays: a delegate ends at the edge of the graph anyway.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target not in _NEAREST or node.args[0].op == "placeholder":
            continue
        (_, _, h, w), (_, _, high, wide) = shape(node.args[0]), shape(node)
        if high % h or wide % w or max(high // h, wide // w) > 4:
            continue

        def written(x: Tensor, tall: int = high // h, broad: int = wide // w) -> Tensor:
            return nearest(x, tall, broad)

        write(graph, node, written, node.args[:1], in_float=False)
        count += 1
    return count


def replace_in_place(graph: GraphModule) -> int:
    """relu_ of `nn.ReLU(inplace=True)` and its like: int8 fuses them as the functions that they are.

    Only where nobody else reads what is overwritten.
    """
    count = 0
    for node in graph.graph.nodes:
        name, _, overload = str(node.target).removeprefix("aten.").partition(".")
        if not str(node.target).startswith("aten.") or not name.endswith("_"):
            continue
        plain = getattr(getattr(_aten, name.removesuffix("_"), None), overload, None)
        source = node.args[0]
        if plain is not None and source.op == "call_function" and len(source.users) == 1:
            node.target = plain
            count += 1
    return count


def replace_clamp(graph: GraphModule) -> int:
    """relu6, and torch.clamp between two numbers: int8 fuses them, and knows their bounds, as a
    hardtanh; a clamp to what is above 0 as a relu."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is _aten.relu6.default:
            low, high = 0.0, 6.0
        elif node.target in (_aten.clamp.default, _aten.clamp_min.default):
            low, high = argument(node, "min"), argument(node, "max")
        else:
            continue
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high:
            node.target, node.args = _aten.hardtanh.default, (node.args[0], float(low), float(high))
        elif low == 0 and high is None:
            node.target, node.args = _aten.relu.default, node.args[:1]
        else:
            continue
        node.kwargs = {}
        count += 1
    return count


PASSES = (
    replace_in_place,
    replace_rows,
    replace_padding,
    replace_norm,
    fold_constants,
    replace_group_norm,
    replace_attention,
    replace_nearest,
    replace_demodulation,
    replace_modulated,
    replace_clamp,
    fold_scale,
)
