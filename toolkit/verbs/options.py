"""Options that several verbs share, and how a word of the command line becomes a path."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from genedge.runtime.bundled import artifact_path
from genedge.runtime.errors import BadInput
from genedge.runtime.files import replacing

__all__ = [
    "Debug",
    "Model",
    "Quiet",
    "Threads",
    "artifact_path",
    "check_folder",
    "check_writable",
    "need_torch",
    "write_text",
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads to run on.")]
_MODELS = "emoji, emoji-teacher, upscale, a folder saved by genedge, "
Model = Annotated[str, typer.Argument(help=f"{_MODELS}or package.module:function.")]
ExportModel = Annotated[
    str,
    typer.Argument(help=f"{_MODELS}a diffusers directory, or package.module:function."),
]


def check_writable(*paths: Path | None) -> None:
    """Raises BadInput where a result could not be written there: said before the work."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise BadInput(f"{path} can not be written (it is a folder); name a file")
        as_it_is = path.exists() and not path.is_file()  # a pipe, /dev/stdout
        if not os.access(path if as_it_is else path.parent, os.W_OK):
            raise BadInput(
                f"{path} can not be written (no such folder, or no right to write in it)"
            )


def check_folder(work: Path) -> None:
    """Raises BadInput where `work` could not hold checkpoints: said before the work."""
    there = next(p for p in (work.absolute(), *work.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "no right to write in it" if there.is_dir() else f"{there} is a file"
        raise BadInput(f"{work} can not hold checkpoints ({why}); choose another --work")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 whole or not at all. Raises BadInput where the place is not writable."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise
        raise BadInput(f"{path} can not be written ({problem.strerror})") from None


def need_torch() -> None:
    """Raises MissingProgram, with the remedy, where the toolkit's libraries are not installed."""
    import importlib
    import importlib.util

    from genedge.runtime.errors import MissingProgram

    missing = [m for m in ("torch", "torchao", "safetensors") if not importlib.util.find_spec(m)]
    if missing:
        raise MissingProgram(
            f"this verb needs {', '.join(missing)}; run: pip install 'genedge[toolkit]'"
        )
    from genedge.runtime.silence import silenced

    with silenced():  # torchao names each of its libraries for GPUs that does not load
        importlib.import_module("torchao.quantization.pt2e")
