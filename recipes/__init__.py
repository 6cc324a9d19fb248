"""One file per target; each has `export(programs, directory, options)`. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.export import ExportedProgram

from genedge.runtime.artifact import TARGETS

__all__ = ["TARGETS", "Names", "Options", "Programs"]

Programs = Mapping[str, ExportedProgram]


@dataclass(frozen=True)
class Names:
    """Inputs and outputs of a component by name, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """precision: fp32, fp16 or int8 (programs are then PT2E's). names: by component."""

    precision: str
    names: Mapping[str, Names]
