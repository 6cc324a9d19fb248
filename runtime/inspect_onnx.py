"""Reads an ONNX component: its initializers, and the graph that ONNX Runtime makes of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .inspect import Inspected, Operator, Stored

_CONVERTS = ("QuantizeLinear", "DequantizeLinear", "Cast", "DynamicQuantizeLinear")
_MOVES: tuple[str, ...] = (
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "DepthToSpace",
    "Gather",
    "Slice",
)
_MOVES += ("Concat", "Split", "Identity", "Expand")
_SMALL = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul")


def _tensors(graph: Any) -> Iterator[Any]:
    """Initializers, and tensors that lie in nodes: constants, and those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensor = attribute.t
                tensor.name = tensor.name or (node.output[0] if node.output else node.name)
                yield tensor
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def read(path: Path, component: str) -> Inspected:
    """Operators are those after ONNX Runtime's own optimisation, for this CPU."""
    import onnx
    import onnxruntime

    stored = []
    for tensor in _tensors(onnx.load(path, load_external_data=False).graph):
        if onnx.external_data_helper.uses_external_data(tensor):  # one at a time
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = 4 if str(dtype) in ("int4", "uint4") else 8 * dtype.itemsize
        size = -(-bits * math.prod(tensor.dims) // 8)
        values = onnx.numpy_helper.to_array(tensor)
        same = values.size > 1 and bool((values == values.flat[0]).all())
        tensor.ClearField("raw_data")
        stored.append(Stored(tensor.name, str(dtype), tuple(tensor.dims), size, same))
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # One message holds no more than 2 GB.
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", "optimized.data")
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "65536")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    operators = []
    for i, node in enumerate(graph.node):
        reads = tuple(n for n in node.input if n and n not in constants)
        if not reads:  # a weight that is dequantized; folded or done once a run
            constants |= set(node.output)
            continue
        computes = "float"
        if node.op_type in _CONVERTS:
            computes = "convert"
        elif node.op_type in _MOVES:
            computes = "move"
        elif node.op_type.startswith(_SMALL):
            computes = "int8"
        name = node.name or f"{node.op_type}_{i}"
        operators.append(Operator(name, node.op_type, "CPU", computes, reads, tuple(node.output)))
    return Inspected(component, tuple(stored), tuple(operators), 1)
