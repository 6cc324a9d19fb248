"""ExecuTorch: lowered to XNNPACK; what it does not take stays with the portable operators."""

from __future__ import annotations

import warnings
from pathlib import Path

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

from genedge.runtime.errors import BadInput

from . import Options, Programs


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
        path = directory / f"{name}.pte"
        path.write_bytes(lowered.buffer)
        files[name] = [path]
    return files
