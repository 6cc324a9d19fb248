"""Reads an ONNX component: its initializers, and the graph that ONNX Runtime makes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

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


def read(path: Path, component: str) -> Inspected:
    """Operators are those after ONNX Runtime's own optimisation, for this CPU."""
    import onnx
    import onnxruntime

    stored = []
    for tensor in onnx.load(path).graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        size = dtype.itemsize
        for n in tensor.dims:
            size *= n
        values = onnx.numpy_helper.to_array(tensor)
        same = values.size > 1 and bool((values == values.flat[0]).all())
        stored.append(Stored(tensor.name, str(dtype), tuple(tensor.dims), size, same))
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
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
