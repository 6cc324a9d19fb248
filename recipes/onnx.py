"""ONNX: torch.onnx's exporter, opset 20; an int8 program becomes QuantizeLinear/DequantizeLinear.

Activations are stored as uint8, 128 above the program's int8: the same numbers. ONNX Runtime's
integer kernels take uint8; it converts int8 tensors itself, but not those that several operators
read, and each of these pulled a whole convolution back into float (2.4 times slower in all).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch.export import ExportedProgram

from . import Names, Options, Programs

OPSET = 20
_SMALLEST_HALF = 64  # elements; smaller tensors save nothing as fp16


def to_model(program: ExportedProgram, names: Names) -> onnx.ModelProto:
    """The ONNX model of one program, its inputs and outputs under their names."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names.inputs),
            output_names=list(names.outputs),
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export gave no model")
    model = exported.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # module paths and stack traces of the exporting machine
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    return model


def to_unsigned(model: onnx.ModelProto) -> None:
    """Activations on the grid −128 … 127 move to 0 … 255, in place; weights stay int8."""
    stored = {t.name: t for t in model.graph.initializer}
    moved, outputs = {}, set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            continue  # a weight; a constant that is only quantized in the graph moves
        zero = stored[node.input[2]]
        if zero.data_type == TensorProto.INT8:
            values = numpy_helper.to_array(zero).astype(np.int16) + 128
            name = f"{zero.name}.unsigned"
            moved[name] = numpy_helper.from_array(values.astype(np.uint8), name)
            node.input[2] = name
            outputs.add(node.output[0])
    model.graph.initializer.extend(moved.values())
    for value in model.graph.value_info:
        if value.name in outputs and value.type.tensor_type.elem_type == TensorProto.INT8:
            value.type.tensor_type.elem_type = TensorProto.UINT8
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Initializers that no node reads go."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def store_half(model: onnx.ModelProto) -> None:
    """Stores float weights as float16, each followed by a cast: the arithmetic stays float32."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALLEST_HALF:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), name + ".half"))
        casts.append(onnx.helper.make_node("Cast", [name + ".half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def export(programs: Programs, directory: Path, options: Options) -> dict[str, list[Path]]:
    """Writes <component>.onnx for each program; returns the files by component."""
    files = {}
    for name, program in programs.items():
        model = to_model(program, options.names[name])
        if options.precision == "fp16":
            store_half(model)
        elif options.precision == "int8":
            to_unsigned(model)
        onnx.checker.check_model(model)
        path = directory / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        files[name] = [path]
    return files
