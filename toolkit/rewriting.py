"""Reading and writing a graph that torch.export gave: shapes, arguments, values, operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

# In a node's meta: this operator stays float under int8 (parts of a norm, of attention).
FLOAT = "genedge_float"


def shape(node: Any) -> tuple[int, ...]:
    """Of a node that gives a tensor; () of anything else, and of a scalar."""
    given = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(int(n) for n in given.shape) if isinstance(given, Tensor) else ()


def argument(node: Node, name: str, default: Any = None) -> Any:
    """An operator's argument by its name in the schema; `default` where it is left out."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)).get(name, node.kwargs.get(name, default))


def static(node: Any) -> bool:
    """Whether a value comes from parameters and numbers alone."""
    if not isinstance(node, Node):
        return True
    if node.op == "get_attr":
        return True
    return node.op == "call_function" and all(static(n) for n in node.all_input_nodes)


def tensor_of(graph: GraphModule, node: Node) -> Any:
    """What a get_attr node reads."""
    tensor: Any = graph
    for part in str(node.target).split("."):
        tensor = getattr(tensor, part)
    return tensor


@torch.no_grad()
def value(graph: GraphModule, node: Node) -> Tensor:
    """The tensor of a static node."""
    if node.op == "get_attr":
        return tensor_of(graph, node).detach()  # type: ignore[no-any-return]
    load = torch.fx.map_arg(node.args, lambda n: value(graph, n))
    return node.target(*load, **node.kwargs)  # type: ignore[operator, no-any-return]


def hold(graph: GraphModule, name: str, tensor: Tensor, before: Node) -> Node:
    """A node in front of `before` that reads a new parameter of this name, a copy of the tensor."""
    graph.register_parameter(name, nn.Parameter(tensor.clone(), False))
    with graph.graph.inserting_before(before):
        kept = graph.graph.get_attr(name)
    kept.meta = {"val": tensor}
    return kept


def write(
    graph: GraphModule,
    node: Node,
    function: Callable[..., Tensor],
    inputs: Sequence[Node],
    in_float: bool,
) -> Node:
    """The operators of `function` on these nodes, in the place of `node`; returns the last one."""
    zeros = [torch.zeros(shape(n), dtype=n.meta["val"].dtype) for n in inputs]
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
