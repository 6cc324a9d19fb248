"""Runs and verifies artifacts. Imports no torch; `load(path).generate(prompt)` draws a picture."""

from .errors import GenedgeError
from .run import Pipeline, load

__all__ = ["GenedgeError", "Pipeline", "load"]
