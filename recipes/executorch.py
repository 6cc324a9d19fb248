"""ExecuTorch: lowered to XNNPACK; what it does not take stays with the portable operators."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from torch.export import ExportedProgram
from torch.fx import Node

from genedge.runtime.errors import BadInput

from . import Options, Programs

_aten = torch.ops.aten


def _scaled_weights(program: ExportedProgram) -> ExportedProgram:
    """int8 weights of layers that compute in float: a cast and a product.

    ExecuTorch has no kernel for dequantize_per_channel outside a delegate, and XNNPACK takes it only
    where the activation is int8 too.
    """
    quantized = torch.ops.quantized_decomposed
    kind = quantized.dequantize_per_channel.default
    if not any(n.target is kind and _alone(n) for n in program.graph.nodes):
        return program
    program = copy.deepcopy(program)  # other targets read the same one
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is not kind or not _alone(node):
            continue
        weight, scales = node.args[0], node.args[1]
        shape = [-1] + [1] * (weight.meta["val"].dim() - 1)
        with graph.inserting_before(node):
            cast = _call(program, _aten._to_copy.default, (weight,), {"dtype": torch.float32})
            column = _call(program, _aten.view.default, (scales, shape))
            product = _call(program, _aten.mul.Tensor, (cast, column))
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _alone(node: Node) -> bool:
    """Whether no layer that reads these weights has an int8 activation."""
    quantized = torch.ops.quantized_decomposed
    return all(
        u.args[0].target is not quantized.dequantize_per_tensor.default  # type: ignore[union-attr]
        for u in node.users
    )


def _call(program: ExportedProgram, target: Any, args: tuple, kwargs: dict | None = None) -> Node:
    node: Node = program.graph_module.graph.call_function(target, args, kwargs or {})
    values = [a.meta["val"] if isinstance(a, Node) else a for a in args]
    node.meta["val"] = target(*values, **(kwargs or {}))
    return node


def _check_kernels(operators: Sequence[Any]) -> None:
    """Raises RuntimeError naming an operator that the runtime has no kernel for: it lowers without a
    word, and then the file does not load (error 0x14)."""
    from executorch.extension.pybindings import portable_lib

    known = set(portable_lib._get_operator_names())
    for operator in operators:
        full = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
        if full not in known:
            raise RuntimeError(f"no kernel for {full}")


def export(programs: Programs, directory: Path, options: Options) -> dict[str, list[Path]]:
    """Writes <component>.pte for each program; returns the files by component.

    Raises BadInput for fp16: XNNPACK would compute in half precision, another picture.
    """
    if options.precision == "fp16":
        raise BadInput("executorch has no fp16 here; use --precision fp32 or int8")
    files = {}
    for name, program in programs.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lowered = to_edge_transform_and_lower(
                _scaled_weights(program),
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            ).to_executorch()
        _check_kernels(lowered.executorch_program.execution_plan[0].operators)
        path = directory / f"{name}.pte"
        with path.open("wb") as file:
            lowered.write_to_file(file)
        files[name] = [path]
        del lowered
        gc.collect()  # graphs hold themselves in circles, and with them the weights
    return files
