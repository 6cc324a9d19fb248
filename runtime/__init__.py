"""Runs and verifies artifacts. Imports no torch; `load(path).generate(prompt)` draws a picture.

Nothing is imported until it is asked for, so that the pytest plugin costs a test run nothing.
"""

from typing import TYPE_CHECKING, Any

from .errors import GenedgeError

if TYPE_CHECKING:
    from .run import PictureWarning, Pipeline, load

__all__ = ["GenedgeError", "PictureWarning", "Pipeline", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
