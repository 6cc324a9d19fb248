"""Options that several verbs share, and how a word of the command line becomes a path."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated

import typer

from genedge.runtime.errors import BadInput

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads to run on.")]
Model = Annotated[
    str, typer.Argument(help="emoji, a folder saved by genedge, or package.module:function.")
]

BUNDLED_TARGETS = ("openvino", "onnx")


def bundled(name: str) -> Path:
    """The artifact in the package of this name for a runtime that is installed.

    Raises BadInput for an unknown name, MissingProgram where no runtime is installed.
    """
    import importlib.util

    from genedge.runtime.errors import MissingProgram

    folder = Path(str(importlib.util.find_spec("genedge.runtime").origin)).parent / "artifacts"  # type: ignore[union-attr]
    there = [t for t in BUNDLED_TARGETS if (folder / f"{name}-{t}-int8").is_dir()]
    if not there:
        raise BadInput(f"artifact {name!r} is neither a folder nor bundled; bundled: emoji")
    modules = {"openvino": "openvino", "onnx": "onnxruntime"}
    for target in there:
        if importlib.util.find_spec(modules[target]) is not None:
            return folder / f"{name}-{target}-int8"
    raise MissingProgram("no runtime is installed; run: pip install 'genedge[openvino]'")


def artifact_path(text: str) -> Path:
    """A folder, or the bundled artifact of this name. Raises what `bundled` raises."""
    path = Path(text)
    return path if path.exists() or "/" in text else bundled(text)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 whole or not at all. Raises BadInput where the place is not writable."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as problem:
        partial.unlink(missing_ok=True) if path.parent.is_dir() else None
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
