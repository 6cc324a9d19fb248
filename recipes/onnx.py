"""ONNX: torch.onnx's exporter, opset 20; an int8 program becomes QuantizeLinear/DequantizeLinear.

Activations are stored as uint8, 128 above the program's int8: the same numbers. ONNX Runtime's
integer kernels take uint8; it converts int8 tensors itself, but not those that several operators
read, and each of these pulled a whole convolution back into float (2.4 times slower in all).
Weights of a large component never enter the protobuf message, which holds 2 GB at most and would be
copied whole: they go one at a time from the program's own memory to a file beside it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx import TensorProto, numpy_helper
from torch.export import ExportedProgram

from . import Names, Options, Programs

OPSET = 20
_HALF = ".half"  # behind the name of a tensor that is stored as float16
_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALLEST_HALF = 64  # elements; smaller tensors save nothing as fp16
EXTERNAL_ABOVE = 250_000_000  # bytes of a component's weights, which then get a file of their own
_INLINE = 65_536  # bytes; smaller tensors, and those of one axis, stay in the message
DATA = ".data"  # behind the model's file name


@dataclass(frozen=True)
class Model:
    """An ONNX model. outside: by name, the tensors whose initializers hold no numbers."""

    proto: onnx.ModelProto
    outside: Mapping[str, Any] = field(default_factory=dict)


def to_model(program: ExportedProgram, names: Names) -> Model:
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
    outside = _taken_out(exported.model)
    model = exported.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # module paths and stack traces of the exporting machine
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    return Model(model, outside)


def _taken_out(model: onnx_ir.Model) -> dict[str, Any]:
    """By name: large weights, where there are so many that they need a file of their own.

    In the model each becomes a reference to a file that is not there yet.
    """
    values = model.graph.initializers
    weights: dict[str, Any] = {
        n: v.const_value for n, v in values.items() if v.const_value is not None
    }
    if sum(t.nbytes for t in weights.values()) <= EXTERNAL_ABOVE:
        return {}
    outside = {
        name: tensor
        for name, tensor in weights.items()
        if tensor.nbytes >= _INLINE and len(tensor.shape) > 1
    }
    for name, tensor in outside.items():
        values[name].const_value = onnx_ir.ExternalTensor(
            DATA, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
        )
    return outside


def write(model: Model, path: Path) -> list[Path]:
    """Writes the model, and beside it the weights that lie outside; returns the files."""
    proto, files = model.proto, [path]
    if model.outside:
        data = path.with_name(path.name + DATA)
        files.append(data)
        with data.open("wb") as file:
            for tensor in proto.graph.initializer:
                if tensor.data_location != TensorProto.EXTERNAL:
                    continue
                name = tensor.name.removesuffix(_HALF)
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                values = np.ascontiguousarray(model.outside[name].numpy(), dtype)
                del tensor.external_data[:]
                for key, value in (
                    ("location", data.name),
                    ("offset", file.tell()),
                    ("length", values.nbytes),
                ):
                    tensor.external_data.add(key=key, value=str(value))
                file.write(values.data)
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(path) if model.outside else proto)
    return files


def to_unsigned(model: onnx.ModelProto, signed: Container[str] = ()) -> None:
    """Activations on the grid −128 … 127 move to 0 … 255, in place; weights stay int8.

    signed: outputs of nodes that stay as they are.
    """
    stored = {t.name: t for t in model.graph.initializer}
    moved, outputs = {}, set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.output[0] in signed:
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


def neighbours(
    model: onnx.ModelProto,
) -> tuple[dict[str, TensorProto], dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]]:
    """By name of a tensor: what is stored, the node that makes it, the nodes that read it."""
    made: dict[str, onnx.NodeProto] = {}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        made |= dict.fromkeys(node.output, node)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {t.name: t for t in model.graph.initializer}, made, readers


def constants_to_unsigned(model: onnx.ModelProto) -> None:
    """Constants that are multiplied with or added to activations become uint8 like these, in place.

    ONNX Runtime fuses a QLinearMul or QLinearAdd where both sides have one type, and otherwise
    casts both to float.
    """
    stored, makers, readers = neighbours(model)

    def of_activation(name: str) -> bool:
        maker = makers.get(name)
        return (
            maker is not None
            and maker.op_type == "DequantizeLinear"
            and maker.input[0] not in stored
        )

    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        constant, zero = stored[node.input[0]], stored[node.input[2]]
        result = node.output[0]
        beside = [n for n in readers.get(result, ()) if n.op_type in ("Mul", "Add")]
        if (
            constant.data_type != TensorProto.INT8
            or len(beside) != len(readers.get(result, ()))
            or len(readers[constant.name]) > 1
            or not all(of_activation(o) for n in beside for o in n.input if o != result)
        ):
            continue
        moved = []
        for tensor in (constant, zero):
            values = numpy_helper.to_array(tensor).astype(np.int16) + 128
            name = f"{tensor.name}.unsigned"
            moved.append(name)
            if name not in stored:
                stored[name] = numpy_helper.from_array(values.astype(np.uint8), name)
                model.graph.initializer.append(stored[name])
        node.input[0], node.input[2] = moved
    drop_unused(model)


def round_before_relu(model: onnx.ModelProto) -> None:
    """Where a convolution and its ReLU end on a grid with negative numbers, rounds between them too,
    in place.

    ONNX Runtime computes the two in float there, for the grid does not do the ReLU's work. The result
    is the same: zero is on the grid.
    """
    stored, made, readers = neighbours(model)
    nodes = []
    for node in model.graph.node:
        source = made.get(node.input[0]) if node.op_type == "Relu" else None
        if (
            source is not None
            and source.op_type in ("Conv", "Gemm")
            and len(readers[node.input[0]]) == 1
            and [n.op_type for n in readers.get(node.output[0], ())] == ["QuantizeLinear"]
        ):
            _, scale, zero = readers[node.output[0]][0].input
            if numpy_helper.to_array(stored[zero]).any():
                name, small, again = node.input[0], f"{node.input[0]}.q", f"{node.input[0]}.dq"
                nodes.append(onnx.helper.make_node("QuantizeLinear", [name, scale, zero], [small]))
                nodes.append(
                    onnx.helper.make_node("DequantizeLinear", [small, scale, zero], [again])
                )
                node.input[0] = again
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def guard_float_weights(model: onnx.ModelProto) -> None:
    """Keeps float what was planned float, in place: ONNX Runtime turns the float weights of a layer that
    stands between two grids into int8 of its own (WeightBiasQuantization) unless something stands between
    the first grid and the layer. A Clip to all of float32 does."""
    graph = model.graph
    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    grids = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    found = [
        (i, n)
        for i, n in enumerate(graph.node)
        if n.op_type in ("Conv", "ConvTranspose", "Gemm")
        and n.input[0] in grids
        and n.input[1] in floats
    ]
    if not found:
        return
    largest = float(np.finfo(np.float32).max)
    ends = [f"float32_{side}" for side in ("lowest", "highest")]
    for name, value in zip(ends, (-largest, largest), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    for i, node in reversed(found):
        kept = f"{node.output[0]}.unrounded"
        graph.node.insert(i, onnx.helper.make_node("Clip", [node.input[0], *ends], [kept]))
        node.input[0] = kept


def drop_unused(model: onnx.ModelProto) -> None:
    """Initializers that no node reads go."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def store_half(model: Model) -> None:
    """Stores float weights as float16, each followed by a cast: the arithmetic stays float32.

    Tensors with numbers that float16 does not hold (a mask of the lowest float32, say) stay.
    """
    casts, graph = [], model.proto.graph
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _SMALLEST_HALF:
            continue
        name, half = tensor.name, tensor.name + _HALF
        outside = tensor.data_location == TensorProto.EXTERNAL
        values = model.outside[name].numpy() if outside else numpy_helper.to_array(tensor)
        if max(values.max(), -values.min()) > _LARGEST_HALF:
            continue
        if outside:
            tensor.name, tensor.data_type = half, TensorProto.FLOAT16
        else:
            tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def export(programs: Programs, directory: Path, options: Options) -> dict[str, list[Path]]:
    """Writes <component>.onnx for each program, of a large one also <component>.onnx.data; returns
    the files by component."""
    files = {}
    for name, program in programs.items():
        model = to_model(program, options.names[name])
        if options.precision == "fp16":
            store_half(model)
        elif options.precision == "int8":
            to_unsigned(model.proto)
            constants_to_unsigned(model.proto)
            round_before_relu(model.proto)
            guard_float_weights(model.proto)
        files[name] = write(model, directory / f"{name}.onnx")
    return files
