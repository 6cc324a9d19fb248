"""OpenVINO: float programs are converted directly, int8 programs through their ONNX model.

A PT2E program given to openvino.convert_model fails ("element types differ"); its ONNX file works.
read_model keeps the quantization pattern as it stands: after convert_model's own simplification the
same network ran three times slower, with its additions and multiplications left in float.
Activations are uint8: with int8 ones the CPU plugin drew a split or slice between two convolutions
wrongly (3 dB of signal to noise, without a word; uint8: 36 dB).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import helper, numpy_helper

from . import Names, Options, Programs
from .onnx import drop_unused, neighbours, to_model, to_unsigned, write

SHARED_BYTES = 16  # scalars, and shapes of few numbers


def _read_by_transposed(model: onnx.ModelProto) -> set[str]:
    """Outputs of the roundings around zero that only transposed convolutions read.

    As uint8 they would have a zero point, with which the CPU plugin computes such a layer in float.
    """
    stored, made, readers = neighbours(model)
    found = set()
    for node in model.graph.node:
        cast = made.get(node.input[0]) if node.op_type == "ConvTranspose" else None
        if cast is None or cast.op_type != "DequantizeLinear" or cast.input[0] not in made:
            continue
        rounding = made[cast.input[0]]
        pair = (rounding, cast)
        if (
            {n.op_type for n in readers[cast.output[0]]} == {"ConvTranspose"}
            and {n.op_type for n in readers[rounding.output[0]]} == {"DequantizeLinear"}
            and not any(numpy_helper.to_array(stored[n.input[2]]).any() for n in pair)
        ):
            found |= {n.output[0] for n in pair}
    return found


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """Zeros need none: a DequantizeLinear without a zero point costs OpenVINO no subtraction."""
    stored = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            zero = stored.get(node.input[2])
            if zero is not None and not numpy_helper.to_array(zero).any():
                node.input.pop()
    drop_unused(model)


_BY_AXIS = ("strides", "dilations", "kernel_shape")  # one number for each axis of the picture


def _split_bias(model: onnx.ModelProto) -> None:
    """Convolution with bias → convolution and addition.

    The reader otherwise shapes each bias at run time, by four more operators per convolution.
    """
    stored = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        axes = next((len(a.ints) for a in node.attribute if a.name in _BY_AXIS), 0)
        if node.op_type == "Conv" and axes and len(node.input) == 3 and node.input[2] in stored:
            bias, result = node.input.pop(), node.output[0]
            node.output[0] = f"{result}.sum"
            values = numpy_helper.to_array(stored[bias]).reshape(1, -1, *[1] * axes)
            model.graph.initializer.append(numpy_helper.from_array(values, f"{result}.bias"))
            nodes.append(helper.make_node("Add", [f"{result}.sum", f"{result}.bias"], [result]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _keep_rounding(model: onnx.ModelProto) -> None:
    """A PReLU of slope 1 between a convolution and the rounding of what it adds to a sum.

    The CPU plugin fuses convolution, rounding, sum and the sum's rounding into one and drops the
    first rounding, where that directly follows the convolution: other pictures than the int8 graph
    means (`emoji`: 31 dB from the simulation; with the PReLU, which is fused as well, 60 dB). A clip
    to the range of the rounding is taken out again by the plugin.
    """
    _, made, _ = neighbours(model)

    def maker(name: str, kind: str) -> onnx.NodeProto | None:
        node = made.get(name)
        return node if node is not None and node.op_type == kind else None

    between = set()
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for name in node.input:
            cast = maker(name, "DequantizeLinear")
            rounding = maker(cast.input[0], "QuantizeLinear") if cast else None
            if rounding is None or rounding.output[0] in between:
                continue
            before = maker(rounding.input[0], "Add")
            bare = maker(before.input[0], "Conv") if before else None
            if bare is None and maker(rounding.input[0], "Conv") is None:
                continue
            between.add(rounding.output[0])
    nodes = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in between:
            source, result = node.input[0], f"{node.input[0]}.same"
            slope = numpy_helper.from_array(np.ones((1, 1, 1), np.float32), f"{result}.slope")
            model.graph.initializer.append(slope)
            nodes.append(helper.make_node("PRelu", [source, slope.name], [result]))
            node.input[0] = result
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _fold_reshapes(model: openvino.Model) -> None:
    """Scales are stored in the shape in which they are read: the reader reshapes each at load."""
    for node in model.get_ops():
        if node.get_type_name() != "Reshape":
            continue
        values, shape = (node.input_value(i).get_node() for i in range(2))
        if {values.get_type_name(), shape.get_type_name()} == {"Constant"}:
            folded = openvino.op.Constant(values.data.reshape(tuple(node.output(0).get_shape())))
            folded.set_friendly_name(values.get_friendly_name())
            openvino.utils.replace_node(node, folded)


def _share_constants(model: openvino.Model) -> None:
    """Small constants of the same value become one, and so do their casts: each is 200 bytes of XML."""
    known: dict[tuple[object, ...], openvino.Node] = {}
    for node in model.get_ordered_ops():
        casts = node.get_type_name() == "Convert"
        constant = node.input_value(0).get_node() if casts else node
        if constant.get_type_name() != "Constant" or constant.data.nbytes > SHARED_BYTES:
            continue
        kinds = [str(n.get_output_element_type(0)) for n in (node, constant)]
        key = (*kinds, tuple(constant.get_output_shape(0)), constant.data.tobytes())
        first = known.setdefault(key, node)
        if first is not node:
            openvino.utils.replace_node(node, first)


def _shortened(text: str, names: Names) -> str:
    """The XML of an int8 graph without sizes of ports, types of inputs, and names of tensors that
    nobody asks for: the reader does without."""
    text = text.replace(" />", "/>")
    text = re.sub(r"(<port [^>]*)>(?:<dim>\d+</dim>)+</port>", r"\1/>", text)
    text = re.sub(r"<input>.*?</input>", lambda m: re.sub(r' precision="\w+"', "", m[0]), text)
    asked = "|".join(map(re.escape, (*names.inputs, *names.outputs)))
    return re.sub(rf' names="(?!(?:[^"]*,)?(?:{asked})[,"])[^"]*"', "", text)


def export(programs: Programs, directory: Path, options: Options) -> dict[str, list[Path]]:
    """Writes <component>.xml and .bin for each program; returns the files by component."""
    files = {}
    for name, program in programs.items():
        names, path = options.names[name], directory / f"{name}.xml"
        if options.precision == "int8":
            source = to_model(program, names)
            to_unsigned(source.proto, _read_by_transposed(source.proto))
            _drop_zero_points(source.proto)
            _split_bias(source.proto)
            _keep_rounding(source.proto)
            with tempfile.TemporaryDirectory(dir=directory) as between:
                # The reader maps the weights of a file; those of a message it copies.
                onnx_files = write(source, Path(between) / "model.onnx")
                model = openvino.Core().read_model(onnx_files[0])
                _fold_reshapes(model)
                _share_constants(model)
                openvino.save_model(model, path, compress_to_fp16=False)
                del model
        else:
            model = openvino.convert_model(program)
            for port, text in zip(model.inputs, names.inputs, strict=True):
                port.get_tensor().set_names({text})
            for port, text in zip(model.outputs, names.outputs, strict=True):
                port.get_tensor().set_names({text})
            openvino.save_model(model, path, compress_to_fp16=options.precision == "fp16")
            del model
        text = path.read_text(encoding="utf-8")
        text = re.sub(r">\s+<", "><", text)  # a third of its bytes is indent
        if options.precision == "int8":
            text = _shortened(text, names)
        path.write_text(text, encoding="utf-8")
        files[name] = [path, path.with_suffix(".bin")]
    return files
