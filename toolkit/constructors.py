"""What makes a generator's modules: by name, or a function of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from genedge.runtime.errors import BadInput, GenedgeError

from .generator import Generator

# Constructors by name: a saved generator names one of these, or package.module:function.
# emoji-chooser is what `emoji` is made by, emoji-teacher-chooser what `emoji-teacher` is; folders that
# were saved before these name "emoji" and "emoji-teacher".
CONSTRUCTORS = {
    "emoji": "genedge.toolkit.zoo.emoji:components",
    "emoji-chooser": "genedge.toolkit.zoo.emoji:choosing",
    "emoji-teacher": "genedge.toolkit.zoo.emoji.teacher:components",
    "emoji-teacher-chooser": "genedge.toolkit.zoo.emoji.teacher:choosing",
    "upscale": "genedge.toolkit.zoo.upscale:components",
}


def named(text: str) -> Callable[..., Any]:
    """The function of "package.module:function", in the working folder too, where no other module
    has that name. Raises BadInput where there is none."""
    module, _, function = text.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as problem:
        raise BadInput(f"{text}: no such function ({problem})") from None
    except (Exception, SystemExit) as problem:  # importing runs the user's own module
        line = (str(problem).strip().splitlines() or [""])[0][:200]
        raise BadInput(
            f"{text} can not be imported ({type(problem).__name__}: {line})"
        ) from problem


def modules_of(made: Any, name: str) -> dict[str, nn.Module]:
    """Modules by component name, of what a constructor of this name returned. Raises BadInput."""
    if isinstance(made, Generator):
        return {c.name: c.module for c in made.components}
    if isinstance(made, dict) and all(isinstance(m, nn.Module) for m in made.values()):
        return made
    raise BadInput(
        f"{name} returned {type(made).__name__}, neither a Generator nor modules by name"
    )


def called(function: Callable[..., Any], name: str) -> Any:
    """What the user's own function returns; whatever it raises becomes one line."""
    try:
        return function()
    except GenedgeError:
        raise
    except (Exception, SystemExit) as problem:
        line = (str(problem).strip().splitlines() or [""])[0][:200]
        raise BadInput(f"{name} raised {type(problem).__name__}: {line}") from problem
