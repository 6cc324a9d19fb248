"""ExecuTorch: lowered to XNNPACK; what it does not take stays with the portable operators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

from genedge.runtime.errors import BadInput

from . import Options, Programs


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
                program,
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            ).to_executorch()
        _check_kernels(lowered.executorch_program.execution_plan[0].operators)
        path = directory / f"{name}.pte"
        path.write_bytes(lowered.buffer)
        files[name] = [path]
    return files
