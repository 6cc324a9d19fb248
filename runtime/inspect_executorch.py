"""Reads an ExecuTorch component: its program, and the graphs inside XNNPACK's partitions.

The executorch package reads the program and carries the schema and the decoder (flatc) for XNNPACK.
"""

from __future__ import annotations

import importlib.resources
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

from .inspect import Inspected, Operator, Stored
from .silence import silenced

_BYTES: dict[str, float] = {
    "fp32": 4,
    "fp16": 2,
    "qint8": 1,
    "quint8": 1,
    "qcint8": 1,
    "qint32": 4,
    "qcint32": 4,
}
_BYTES |= {"int32": 4, "qcint4": 0.5, "qbint4": 0.5}
_NAMES = {"fp32": "float32", "fp16": "float16", "qcint8": "int8", "qint8": "int8"}
_NAMES |= {"quint8": "uint8", "qcint32": "int32", "qint32": "int32", "qcint4": "int4"}
_TYPES = {0: ("uint8", 1), 1: ("int8", 1), 3: ("int32", 4), 4: ("int64", 8), 5: ("float16", 2)}
_TYPES |= {6: ("float32", 4), 7: ("float64", 8), 11: ("bool", 1)}
_MOVES = ("StaticReshape", "StaticTranspose", "Concatenate", "StaticSlice", "DepthToSpace", "Copy")
_PORTABLE_MOVES: tuple[str, ...] = (
    "view_copy",
    "permute_copy",
    "unsqueeze_copy",
    "squeeze_copy",
    "embedding",
    "clone",
)
_PORTABLE_MOVES += ("slice_copy", "cat", "expand_copy", "pixel_shuffle", "split_copy")
_CONVERTS = ("quantize_per_tensor", "dequantize_per_tensor", "_to_copy", "_to_dim_order_copy")


def _decoded(data: bytes) -> dict[str, Any]:
    """The XNNPACK graph in a partition's payload, as plain JSON."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH])
    package = importlib.resources.files("executorch.backends.xnnpack.serialization")
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        schema, graph = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes((package / "schema.fbs").read_bytes())
        begin = header.flatbuffer_offset
        graph.write_bytes(data[begin : begin + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(graph), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text()
        # flatc writes the open ends of a clamp as inf, which is no JSON.
        found: dict[str, Any] = json.loads(re.sub(r": (-?)inf\b", r": \1Infinity", text))
    return found


def _partition(graph: dict[str, Any], index: int) -> tuple[list[Stored], list[Operator]]:
    values: dict[int, tuple[str, list[int], int]] = {}
    for row in graph["xvalues"]:
        value = row["xvalue_union"]
        quantized = "tensor_value" in value
        value = value["tensor_value"] if quantized else value
        dtype = str(value.get("datatype", "xnn_datatype_invalid")).removeprefix("xnn_datatype_")
        identity = int(value.get("id_out", 0))
        constant = int(value.get("constant_buffer_idx", 0))
        values[identity] = (dtype, list(value.get("dims", [])), constant)
    stored = [
        Stored(
            f"xnnpack{index}.{i}",
            _NAMES.get(dtype, dtype),
            tuple(dims),
            int(math.prod(dims) * _BYTES.get(dtype, 4)),
        )
        for i, (dtype, dims, constant) in values.items()
        if constant
    ]
    operators = []
    for i, row in enumerate(graph["xnodes"]):
        kind = str(row["xnode_union_type"]).removeprefix("XNN")
        node = row["xnode_union"]
        ids = {k: v for k, v in node.items() if k.endswith("_id") or k in ("inputs", "outputs")}
        reads: list[int] = []
        writes: list[int] = []
        for key, value in ids.items():
            place = writes if "output" in key else reads
            place += value if isinstance(value, list) else [value]
        if "input_id" not in ids and "input1_id" not in ids and "output_id" in ids:
            reads = [int(node.get("input_id", 0)), *reads]  # flatc leaves out ids that are 0
        if not writes:
            writes = [0]
        wide = [values[v][0] for v in writes if v in values]
        computes = "int8" if all(d in ("qint8", "quint8") for d in wide) else "float"
        if kind == "Convert":
            computes = "convert"
        elif kind in _MOVES:
            computes = "move"
        names = [tuple(f"x{index}.{v}" for v in side) for side in (reads, writes)]
        fed = tuple(
            n for n, v in zip(names[0], reads, strict=True) if not values.get(v, ("", [], 0))[2]
        )
        operators.append(Operator(f"{kind}_{index}_{i}", kind, "XNNPACK", computes, fed, names[1]))
    return stored, operators


def read(path: Path, component: str) -> Inspected:
    """Operators in XNNPACK's partitions and those that the portable kernels run."""
    with silenced():
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall, Tensor

        program = deserialize_pte_binary(path.read_bytes()).program
    plan = program.execution_plan[0]
    stored: list[Stored] = []
    operators: list[Operator] = []
    for i, value in enumerate(plan.values):
        tensor = value.val
        if isinstance(tensor, Tensor) and tensor.data_buffer_idx and tensor.allocation_info is None:
            dtype, size = _TYPES.get(int(tensor.scalar_type), (str(tensor.scalar_type), 4))
            shape = tuple(tensor.sizes)
            stored.append(Stored(f"constant{i}", dtype, shape, size * math.prod(shape)))
    for i, delegate in enumerate(plan.delegates):
        inside = _partition(
            _decoded(program.backend_delegate_data[delegate.processed.index].data), i
        )
        stored += inside[0]
        operators += inside[1]
    calls = 0
    for i, instruction in enumerate(plan.chains[0].instructions):
        call = instruction.instr_args
        if isinstance(call, DelegateCall):
            calls += 1
        elif isinstance(call, KernelCall):
            kind = plan.operators[call.op_index].name.split("::")[-1]
            tensors = [a for a in call.args if isinstance(plan.values[a].val, Tensor)]
            computes = "float"
            if kind in _CONVERTS:
                computes = "convert"
            elif kind in _PORTABLE_MOVES:
                computes = "move"
            reads, writes = (tuple(f"v{a}" for a in side) for side in (tensors[:-1], tensors[-1:]))
            operators.append(Operator(f"{kind}_{i}", kind, "portable", computes, reads, writes))
    return Inspected(component, tuple(stored), tuple(operators), calls)
