"""Runs a component with OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifact import Component

if TYPE_CHECKING:
    from .run import Run


def load(directory: Path, component: Component, threads: int) -> Run:
    """Compiles for the CPU in float32 arithmetic (never bf16 by itself); int8 layers stay int8."""
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    core = openvino.Core()
    model = core.read_model(directory / component.files[0].path)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    if component.float_arithmetic:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else inputs are rounded to int8
    compiled = core.compile_model(model, "CPU", settings)
    known = {name for port in compiled.inputs for name in port.get_names()}
    request = compiled.create_infer_request()
    theirs = component.file_names
    places = {name: i for i, port in enumerate(compiled.outputs) for name in port.get_names()}
    wanted = {n: places.get(theirs.get(n, n), i) for i, n in enumerate(component.outputs)}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed = {theirs.get(k, k): v for k, v in inputs.items() if theirs.get(k, k) in known}
        request.infer(fed, share_inputs=True)
        return {n: np.array(request.get_output_tensor(i).data) for n, i in wanted.items()}

    run.pinned = {  # type: ignore[attr-defined]
        "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
    }
    return run
