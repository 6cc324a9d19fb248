"""Runs a component with ExecuTorch. The runtime's own Python binding imports torch."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifact import Component
from .errors import BadInput
from .silence import silenced

if TYPE_CHECKING:
    from .run import Run


_ALIVE: weakref.WeakSet[Run] = weakref.WeakSet()  # what draws on the process's pool of threads
_LOADING = threading.Lock()


def load(directory: Path, component: Component, threads: int) -> Run:
    """Loads with all of the file's internal checks; inputs are fed by position, contiguous.

    Raises BadInput where another number of threads is in use: the process has one pool, a program
    keeps a pointer to it, and another number makes another pool.
    """
    with _LOADING:
        run = _load(directory, component, threads)
        _ALIVE.add(run)
    return run


def _load(directory: Path, component: Component, threads: int) -> Run:
    with silenced():
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        # The pool has a thread per core until it is told otherwise.
        there = portable_lib._threadpool_get_thread_count()
        if there != threads and _ALIVE:
            raise BadInput(
                f"ExecuTorch draws on {there} thread(s) in this process already; close what is "
                f"loaded before an artifact is loaded on {threads}, or load it on as many"
            )
        torch.set_num_threads(threads)
        if there != threads:
            portable_lib._unsafe_reset_threadpool(threads)
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

    threads = portable_lib._threadpool_get_thread_count()
    run.pinned = {"threads": str(threads), "precision": "as stored"}  # type: ignore[attr-defined]
    return run
