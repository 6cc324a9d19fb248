"""From a generator's components to exported programs with static shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from genedge.runtime.errors import BadInput

from .generator import Component, Generator

_RANDOM = ("rand", "randn", "normal", "bernoulli", "multinomial", "dropout")


def example_inputs(generator: Generator, component: Component) -> tuple[Tensor, ...]:
    """Contiguous inputs of the component, from the first prompt that the generator lists."""
    prompts = [*generator.calibration, *generator.golden, "a picture"]
    tensors = generator.tensors(generator.prepare(prompts[0], seed=0))
    return tuple(tensors[n].detach().clone().contiguous() for n in component.inputs)


def export_module(module: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """torch.export, strict about what may not be frozen into a file.

    Raises BadInput where the module draws random numbers in forward: noise must be an input.
    """
    program = torch.export.export(module, example, strict=False)
    for node in program.graph.nodes:
        name = getattr(node.target, "_schema", None)
        operator = name.name.removeprefix("aten::") if name is not None else ""
        idle = operator == "dropout" and node.args[2] is False  # as eval() leaves it
        if node.op == "call_function" and operator.split("_")[0] in _RANDOM and not idle:
            raise BadInput(
                f"{type(module).__name__} calls {operator} in forward; its numbers would be "
                f"frozen into the file: make noise an input"
            )
    return program


def float_programs(generator: Generator) -> dict[str, ExportedProgram]:
    """One program per component."""
    return {
        c.name: export_module(c.module.eval(), example_inputs(generator, c))
        for c in generator.components
    }
