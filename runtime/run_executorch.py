"""Runs a component with ExecuTorch. The runtime's own Python binding imports torch."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifact import Component

if TYPE_CHECKING:
    from .run import Run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallows what the import of the binding prints to stderr."""
    logging.getLogger("torchao").setLevel(logging.CRITICAL)
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def load(directory: Path, component: Component, threads: int) -> Run:
    """Loads with all of the file's internal checks; inputs are fed by position, contiguous."""
    with _quiet():
        import torch
        from executorch.runtime import Runtime, Verification

        torch.set_num_threads(threads)
        with contextlib.suppress(ImportError, AttributeError):
            from executorch.extension.pybindings import _portable_lib

            _portable_lib._threadpool_reset(threads)  # type: ignore[attr-defined]
        program = Runtime.get().load_program(
            directory / component.files[0].path, verification=Verification.InternalConsistency
        )
        method = program.load_method("forward")
    if method is None:
        raise RuntimeError("the program has no method named forward")

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # A view that is not C-contiguous gives a wrong picture without a word.
        fed = [torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in component.inputs]
        results = method.execute(fed)
        return {n: r.numpy().copy() for n, r in zip(component.outputs, results, strict=True)}

    return run
