"""From a generator's components to exported programs with static shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from genedge.runtime.errors import BadInput

from .generator import Component, Generator
from .lowering import can_not_trace

# Arguments of operators that draw random numbers only where these are set.
_DROPOUT = ("dropout_p", "p", "train", "training")


def example_inputs(
    generator: Generator, component: Component, tensors: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Contiguous inputs of the component, from the generator's example.

    tensors: that example, where it was made before.
    """
    tensors = generator.example() if tensors is None else tensors
    return tuple(tensors[n].detach().clone().contiguous() for n in component.inputs)


def export_module(module: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """torch.export, strict about what may not be frozen into a file.

    Raises BadInput where the module can not be traced, or draws random numbers in forward: noise
    must be an input.
    """
    try:
        program = torch.export.export(module, example, strict=False)
    except Exception as problem:
        raise can_not_trace(module, problem) from problem
    for node in program.graph.nodes:
        if _is_random(node):
            raise BadInput(
                f"{owner(node) or type(module).__name__} calls {operator_of(node)} in forward; its "
                f"numbers would be frozen into the file: make noise an input"
            )
    return program


def operator_of(node: Node) -> str:
    """What a node calls, for people: "randn_like" of aten.randn_like.default; "" where no operator."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1] if schema is not None else ""


def owner(node: Node) -> str:
    """The module whose forward made the node: "blocks.1 (Attention)"; "" where nothing is known."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return ""
    path, kind = stack[-1][0], str(stack[-1][1]).rsplit(".", 1)[-1].removesuffix("'>")
    return f"{path} ({kind})" if path else kind


def _is_random(node: Node) -> bool:
    """Whether the node draws random numbers; dropout that is switched off does not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    switches = [n for n in names if n in _DROPOUT]
    return not switches or all(bool(given.get(n, 0)) for n in switches)
