"""Runs a component with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifact import Component

if TYPE_CHECKING:
    from .run import Run


def load(directory: Path, component: Component, threads: int) -> Run:
    """Opens a session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait by spinning take the cores from the app around them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if component.float_arithmetic:
        # Else int8 weights become MatMulNBits, which rounds what it multiplies them by to int8.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        str(directory / component.files[0].path), options, providers=["CPUExecutionProvider"]
    )
    known = {i.name for i in session.get_inputs()}
    theirs = component.file_names
    wanted = [theirs.get(n, n) for n in component.outputs]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed = {theirs.get(k, k): v for k, v in inputs.items() if theirs.get(k, k) in known}
        return dict(zip(component.outputs, session.run(wanted, fed), strict=True))

    threads = session.get_session_options().intra_op_num_threads
    run.pinned = {"threads": str(threads), "precision": "as stored"}  # type: ignore[attr-defined]
    return run
