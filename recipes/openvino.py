"""OpenVINO: float programs are converted directly, int8 programs through their ONNX model.

A PT2E program given to openvino.convert_model fails ("element types differ"); its ONNX file works.
"""

from __future__ import annotations

import io
from pathlib import Path

import openvino

from . import Options, Programs
from .onnx import to_model


def export(programs: Programs, directory: Path, options: Options) -> dict[str, list[Path]]:
    """Writes <component>.xml and .bin for each program; returns the files by component."""
    files = {}
    for name, program in programs.items():
        names = options.names[name]
        if options.precision == "int8":
            source = to_model(program, names).SerializeToString()
            model = openvino.Core().read_model(io.BytesIO(source))
        else:
            model = openvino.convert_model(program)
            for port, text in zip(model.inputs, names.inputs, strict=True):
                port.get_tensor().set_names({text})
            for port, text in zip(model.outputs, names.outputs, strict=True):
                port.get_tensor().set_names({text})
        path = directory / f"{name}.xml"
        openvino.save_model(model, path, compress_to_fp16=options.precision == "fp16")
        files[name] = [path, path.with_suffix(".bin")]
    return files
