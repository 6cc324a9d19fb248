"""Reads an OpenVINO component: its constants, and the graph that the CPU plugin runs."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from .inspect import Inspected, Operator, Stored

_MOVES: tuple[str, ...] = (
    "Reshape",
    "Transpose",
    "DepthToSpace",
    "Gather",
    "Concatenation",
    "Split",
    "StridedSlice",
)
_MOVES += ("ShuffleChannels", "Squeeze", "Unsqueeze", "Broadcast")
_CONVERTS = ("Reorder", "Convert", "FakeQuantize")
# numpy has no names for types of less than a byte, nor for bfloat16.
_DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "boolean": "bool",
}
_DTYPES |= {f"{k}{n}": f"{'u' * (k == 'u')}int{n}" for k in "iu" for n in (2, 4, 8, 16, 32, 64)}
_NO_WORK = ("Input", "Output", "Const")
# Names of the steps of a conversion between int8 and float, inside an operator that was fused.
_STEP = re.compile(r"quantize|^(Convert|Subtract|Multiply)_\d+$|/sink_port|^$")


def read(path: Path, component: str) -> Inspected:
    """Operators are those of the compiled model on this CPU, with float32 as its float."""
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    stored = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            kind, shape = node.get_element_type(), tuple(node.get_output_shape(0))
            name = kind.get_type_name()
            bits = kind.get_bitwidth() * math.prod(shape)
            dtype = _DTYPES.get(name, name)
            values = node.data
            same = values.size > 1 and bool((values == values.flat[0]).all())
            size = -(-bits // 8)
            stored.append(Stored(node.get_friendly_name(), dtype, shape, size, same))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    operators = []
    constants: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = {k: v.astype(str) for k, v in node.get_rt_info().items()}
        kind, name = about.get("layerType", ""), node.get_friendly_name()
        before = [i.get_source_output().get_node().get_friendly_name() for i in node.inputs()]
        reads = tuple(n for n in before if n not in constants)
        if kind == "Const" or (not reads and kind != "Input"):
            constants.add(name)
            continue
        if kind in _NO_WORK:
            continue
        fused = about.get("originalLayersNames", "").split(",")
        computes = "float"
        if kind in _CONVERTS or all(_STEP.search(n) for n in fused):
            computes = "convert"
        elif kind in _MOVES:
            computes = "move"
        elif about.get("runtimePrecision", "") in ("i8", "u8"):
            computes = "int8"
        if computes == "float" and about.get("outputPrecisions", "") in ("i8", "u8"):
            # Arithmetic in float, quantized as it is written: its neighbours behind read int8.
            operators.append(Operator(name, kind, "CPU", "float", reads, (f"{name}:float",)))
            operators.append(
                Operator(
                    f"{name}:quantize", "Quantize", "CPU", "convert", (f"{name}:float",), (name,)
                )
            )
            continue
        operators.append(Operator(name, kind, "CPU", computes, reads, (name,)))
    return Inspected(component, tuple(stored), tuple(operators), 1)
