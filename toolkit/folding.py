"""What parameters alone decide is computed before lowering: constants, and numbers times a layer."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from .quantizer import WEIGHTED
from .rewriting import hold, shape, static, value

_aten = torch.ops.aten
_SMALL = 4096  # numbers


def fold_constants(graph: GraphModule) -> int:
    """What depends on no input is computed once: a time embedding, weights times a fixed gain.

    OpenVINO refuses an int8 layer that reads a constant. Folded only where the result is no larger
    than what it is made of, or small.
    """
    count = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not static(node) or not shape(node):
            continue
        if node.users and all(static(u) and u.op == "call_function" for u in node.users):
            continue  # its user is folded, and it with it
        found = value(graph, node)
        sizes = [n.meta["val"].numel() for n in _parameters(node) if "val" in n.meta]
        if found.numel() > max([_SMALL, *sizes]):
            continue
        node.replace_all_uses_with(hold(graph, f"_folded_{node.name}", found, node))
        graph.graph.erase_node(node)
        count += 1
    return count


def _parameters(node: Node) -> set[Node]:
    inputs = [_parameters(n) for n in node.all_input_nodes]
    return {node} if node.op == "get_attr" else set().union(*inputs)


def fold_scale(graph: GraphModule) -> int:
    """A layer's result times a number, or taken from something → the number goes into its weights.

    ONNX Runtime and XNNPACK compute such products in float, as ONNX Runtime does differences: islands
    in int8, one in each block of networks that scale their residuals. A layer that is run twice
    stays, for its weights would be stored twice.
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
        if not isinstance(layer, Node) or layer.target not in WEIGHTED or len(layer.users) != 1:
            continue
        parameters = [p for p in layer.args[1:3] if p is not None]
        if not all(
            isinstance(p, Node) and p.op == "get_attr" and len(p.users) == 1 for p in parameters
        ):
            continue
        for i, parameter in enumerate(parameters, 1):
            scaled = value(graph, parameter) * factor  # type: ignore[arg-type]
            layer.update_arg(i, hold(graph, f"_scaled_{node.name}_{i}", scaled, layer))
        if node.target is _aten.sub.Tensor:
            node.target = _aten.add.Tensor
        else:
            node.replace_all_uses_with(layer)
            graph.graph.erase_node(node)
        count += 1
    return count
