"""MODEL of the command line: which generator it names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from genedge.runtime.errors import BadInput

from .constructors import CONSTRUCTORS, called, named
from .diffusers_folder import is_pipeline
from .generator import Generator
from .saved import load_saved, of_function

MODELS = ("emoji", "emoji-teacher", "upscale")  # what comes with genedge


def resolve(model: str, pipeline: Mapping[str, Any] | None = None) -> Generator:
    """MODEL of the command line: `emoji`, a folder saved by genedge, a diffusers directory, or
    package.module:function.

    package.module:function@FOLDER is a folder saved from what that function makes. pipeline: how a
    diffusers directory draws (steps, guidance, …: `genedge.toolkit.pipeline.load_pipeline`); None
    where only a generator of one pass will do. Raises BadInput where it is none of these.
    """
    if model in MODELS:
        module = importlib.import_module(CONSTRUCTORS[model].split(":")[0])
        folder_of = Path(str(module.__file__)).parent / "checkpoint"
        if not folder_of.is_dir():
            raise BadInput(
                f"the weights of {model} are in genedge's repository, not in its package; clone it "
                f"and run: pip install -e '.[toolkit]'"
            )
        return load_saved(folder_of)
    function, at, folder = model.partition("@")
    if at and ":" in function:
        return load_saved(Path(folder), trusted=function)
    if ":" in model:
        made = called(named(model), model)
        if isinstance(made, nn.Module):
            raise BadInput(
                f"{model} returned a module without a description; return "
                f"genedge.toolkit.own.generator_of(module, inputs=…, output=…) (docs/own.md)"
            )
        if not isinstance(made, Generator):
            raise BadInput(f"{model} returned {type(made).__name__}, not a Generator")
        return of_function(made, model)
    if is_pipeline(Path(model)):
        from .pipeline import load_pipeline

        if pipeline is None:
            raise BadInput(
                f"{model} is a pipeline of several steps; only export and verify work on one"
            )
        return load_pipeline(Path(model), **pipeline)
    if Path(model).is_dir():
        return load_saved(Path(model))
    raise BadInput(
        f"model {model!r} is unknown; use {', '.join(MODELS)}, a folder saved by genedge, "
        f"a diffusers directory, or package.module:function"
    )
