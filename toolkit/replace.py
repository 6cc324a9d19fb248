"""Operators that targets take badly, written in ones that they all take: small passes over a graph.

A pass finds its operator in the graph that torch.export gave and puts other operators, which compute
the same, in its place. Whatever was replaced is proved on the example inputs: below 100 dB the graph
stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from genedge.runtime.metrics import sqnr

from .generator import Generator
from .pipeline import SampledGenerator
from .programs import example_inputs, export_module

PROOF_DB = 100.0
# In a node's meta: this operator stays float under int8 (parts of a norm, of attention).
FLOAT = "genedge_float"
_aten = torch.ops.aten
_SMALL = 4096  # numbers
_NEAREST = (_aten.upsample_nearest2d.vec, _aten.upsample_nearest2d.default)
_LAYERS = (_aten.conv2d.default, _aten.linear.default, _aten.conv_transpose2d.input)
_SHAPES = (_aten.view.default, _aten.reshape.default, _aten.unsqueeze.default, _aten.squeeze.dim)


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


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else ()


def _argument(node: Node, name: str, default: Any = None) -> Any:
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)).get(name, node.kwargs.get(name, default))


def _write(
    graph: GraphModule,
    node: Node,
    function: Callable[..., Tensor],
    inputs: Sequence[Node],
    in_float: bool,
) -> Node:
    """The operators of `function` on these nodes, in the place of `node`; returns the last one."""
    zeros = [torch.zeros(_shape(n), dtype=n.meta["val"].dtype) for n in inputs]
    traced = make_fx(lambda *tensors: function(*tensors), pre_dispatch=True)(*zeros)
    copies: dict[Node, Node] = {}
    feeds = iter(inputs)
    last = node
    with graph.graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "placeholder":
                copies[inner] = next(feeds)
            elif inner.op == "output":
                last = copies[inner.args[0]]
            else:
                made = graph.graph.node_copy(inner, lambda n: copies[n])
                made.meta = {k: v for k, v in node.meta.items() if k != "val"} | {
                    "val": inner.meta["val"]
                }
                if in_float:
                    made.meta[FLOAT] = True
                copies[inner] = made
    node.replace_all_uses_with(last)
    graph.graph.erase_node(node)
    return last


def fold_constants(graph: GraphModule) -> int:
    """What depends on no input is computed once: a time embedding, weights times a fixed gain.

    OpenVINO refuses an int8 layer that reads a constant. Folded only where the result is no larger
    than what it is made of, or small.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not _static(node) or not _shape(node):
            continue
        if node.users and all(_static(u) and u.op == "call_function" for u in node.users):
            continue  # its user is folded, and it with it
        value = _value(graph, node)
        sizes = [n.meta["val"].numel() for n in _parameters(node) if "val" in n.meta]
        if value.numel() > max([_SMALL, *sizes]):
            continue
        name = f"_folded_{node.name}"
        graph.register_parameter(name, nn.Parameter(value.clone(), False))
        with graph.graph.inserting_before(node):
            kept = graph.graph.get_attr(name)
        kept.meta = {"val": value}
        node.replace_all_uses_with(kept)
        graph.graph.erase_node(node)
        count += 1
    return count


def _parameters(node: Node) -> set[Node]:
    inputs = [_parameters(n) for n in node.all_input_nodes]
    return {node} if node.op == "get_attr" else set().union(*inputs)


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
        if node.target is not _aten.group_norm.default or len(_shape(node.args[0])) not in (3, 4):
            continue
        groups, eps = int(_argument(node, "num_groups")), float(_argument(node, "eps", 1e-5))
        given = [_argument(node, n) for n in ("weight", "bias")]
        wide = (1, -1, *[1] * (len(_shape(node.args[0])) - 2))

        def written(
            x: Tensor, *affine: Tensor, groups: int = groups, eps: float = eps,
            kinds: tuple[bool, ...] = tuple(isinstance(g, Node) for g in given),
            wide: tuple[int, ...] = wide,
        ) -> Tensor:  # fmt: skip
            x, rest = group_norm(x, groups, eps), iter(affine)
            x = x * next(rest).view(wide) if kinds[0] else x
            return x + next(rest).view(wide) if kinds[1] else x

        inputs = [node.args[0], *(g for g in given if isinstance(g, Node))]
        _write(graph, node, written, inputs, in_float=True)
        count += 1
    return count


def replace_attention(graph: GraphModule) -> int:
    """scaled_dot_product_attention without mask → product, softmax, product."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.scaled_dot_product_attention.default:
            continue
        mask, causal = _argument(node, "attn_mask"), _argument(node, "is_causal", False)
        if isinstance(mask, Node) or causal or _argument(node, "enable_gqa", False):
            continue
        scale = _argument(node, "scale") or _shape(node.args[0])[-1] ** -0.5

        def written(q: Tensor, k: Tensor, v: Tensor, scale: float = float(scale)) -> Tensor:
            return torch.matmul(torch.softmax(torch.matmul(q * scale, k.mT), -1), v)

        _write(graph, node, written, node.args[:3], in_float=True)
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
        (_, _, h, w), (_, _, high, wide) = _shape(node.args[0]), _shape(node)
        if high % h or wide % w or max(high // h, wide // w) > 4:
            continue

        def written(x: Tensor, tall: int = high // h, broad: int = wide // w) -> Tensor:
            return nearest(x, tall, broad)

        _write(graph, node, written, node.args[:1], in_float=False)
        count += 1
    return count


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
        groups = int(_argument(conv, "groups", 1))
        if weight.op == "get_attr" or groups != 1 or _shape(conv)[:1] != (1,):
            continue
        found = _factors(weight, _shape(weight))
        if found is None or not (found[1] or found[2]):
            continue
        static, before, after = found
        value = _value(graph, static)
        name = f"_static_{weight.name}"
        graph.register_parameter(name, nn.Parameter(value.reshape(_shape(weight)).clone(), False))
        with graph.graph.inserting_before(conv):
            kept = graph.graph.get_attr(name)
            kept.meta = {"val": value.reshape(_shape(weight))}
        bias = _argument(conv, "bias")
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
        _write(graph, conv, written, inputs, in_float=False)
        count += 1
    return count


def replace_demodulation(graph: GraphModule) -> int:
    """Σ (w · s)² over all but the output channels → (Σ w²) · s², a product of a matrix and a vector."""
    count = 0
    for node in list(graph.graph.nodes):
        square = node.args[0] if node.target is _aten.sum.dim_IntList else None
        scaled = _squared(square)
        shape = tuple(n for n in _shape(scaled) if n)
        if scaled is None or len(shape) != 5 or shape[0] != 1:
            continue
        if sorted(a % 5 for a in node.args[1]) != [2, 3, 4]:
            continue
        found = _factors(scaled, shape[1:])
        if found is None or not found[1] or found[2]:
            continue
        static = _value(graph, found[0]).reshape(shape[1:])
        name = f"_squares_{node.name}"
        squares = static.square().sum((2, 3))
        graph.register_parameter(name, nn.Parameter(squares, False))
        with graph.graph.inserting_before(node):
            kept = graph.graph.get_attr(name)
            kept.meta = {"val": squares}

        def written(w: Tensor, *factors: Tensor, out: tuple[int, ...] = _shape(node)) -> Tensor:
            row = factors[0].reshape(1, -1)
            for factor in factors[1:]:
                row = row * factor.reshape(1, -1)
            return torch.matmul(w, (row * row).mT).reshape(out)

        _write(graph, node, written, [kept, *found[1]], in_float=True)
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
    """torch.clamp between two numbers: int8 fuses it, and knows its bounds, as a hardtanh."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target is not _aten.clamp.default:
            continue
        low, high = _argument(node, "min"), _argument(node, "max")
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high:
            node.target, node.kwargs = _aten.hardtanh.default, {}
            node.args = (node.args[0], float(low), float(high))
            count += 1
    return count


def replace_scale(graph: GraphModule) -> int:
    """A layer's result times a number, or taken from something → the number goes into its weights.

    ONNX Runtime and XNNPACK compute such products in float, as ONNX Runtime does differences: islands
    in int8, one in each block of networks that scale their residuals.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.target in (_aten.mul.Tensor, _aten.div.Tensor):
            layer, number = node.args[:2]
            if not isinstance(number, (int, float)) or number == 0:
                continue
            factor = number if node.target is _aten.mul.Tensor else 1 / number
        elif node.target is _aten.sub.Tensor and not node.kwargs and len(set(node.args)) == 2:
            layer, factor = node.args[1], -1.0
        else:
            continue
        if not isinstance(layer, Node) or layer.target not in _LAYERS or len(layer.users) != 1:
            continue
        parameters = [p for p in layer.args[1:3] if p is not None]
        if not all(isinstance(p, Node) and p.op == "get_attr" for p in parameters):
            continue
        with graph.graph.inserting_before(layer):
            for i, parameter in enumerate(parameters, 1):
                value = _value(graph, parameter) * factor  # type: ignore[arg-type]
                name = f"_scaled_{node.name}_{i}"
                graph.register_parameter(name, nn.Parameter(value, False))
                kept = graph.graph.get_attr(name)
                kept.meta = {"val": value}
                layer.update_arg(i, kept)
        if node.target is _aten.sub.Tensor:
            node.target = _aten.add.Tensor
        else:
            node.replace_all_uses_with(layer)
            graph.graph.erase_node(node)
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


def _factors(weight: Node, shape: tuple[int, ...]) -> tuple[Node, list[Node], list[Node]] | None:
    """(static weights, factors by input channel, by output channel), where the weights are these."""
    size = int(torch.Size(shape).numel())
    before: list[Node] = []
    after: list[Node] = []
    node: Any = weight
    while not _static(node):
        if not isinstance(node, Node) or tuple(n for n in _shape(node) if n)[-4:] != shape:
            return None
        if node.target in _SHAPES:
            node = node.args[0]
            continue
        if node.target is not _aten.mul.Tensor:
            return None
        pair = sorted(node.args[:2], key=lambda n: -int(torch.Size(_shape(n)).numel()))
        factor = pair[1]
        axes = ((1,) * 4 + _shape(factor))[-4:]
        if not isinstance(factor, Node) or int(torch.Size(_shape(pair[0])).numel()) != size:
            return None
        if axes == (1, shape[1], 1, 1):
            before.append(factor)
        elif axes == (shape[0], 1, 1, 1):
            after.append(factor)
        else:
            return None
        node = pair[0]
    return (node, before, after) if isinstance(node, Node) else None


def _static(node: Any) -> bool:
    """Whether a value comes from parameters and numbers alone."""
    if not isinstance(node, Node):
        return True
    if node.op == "get_attr":
        return True
    return node.op == "call_function" and all(_static(n) for n in node.all_input_nodes)


@torch.no_grad()
def _value(graph: GraphModule, node: Node) -> Tensor:
    """The tensor of a static node."""
    if node.op == "get_attr":
        value: Any = graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach()  # type: ignore[no-any-return]
    load = torch.fx.map_arg(node.args, lambda n: _value(graph, n))
    return node.target(*load, **node.kwargs)  # type: ignore[operator, no-any-return]


def _keep_float(node: Node) -> None:
    """What makes a factor out of weights and styles stays float: int8 would round the weights."""
    if node.op != "call_function" or FLOAT in node.meta or len(_shape(node)) < 3:
        return
    node.meta[FLOAT] = True
    for other in node.all_input_nodes:
        _keep_float(other)


PASSES = (
    replace_in_place,
    fold_constants,
    replace_group_norm,
    replace_attention,
    replace_nearest,
    replace_demodulation,
    replace_modulated,
    replace_clamp,
    replace_scale,
)
