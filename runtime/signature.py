"""What a generator takes and gives: shared by the toolkit's Generator and an artifact's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import BadInput

SOURCES = ("prompt", "noise", "meaning", "style")
LAYOUTS = ("rgba-premultiplied", "rgb", "gray")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: dtype name, static shape, the range of its values, and what fills it.

    source: "prompt" (token ids), "noise" (from the seed), "meaning" (one-hot of a choice by the
    seed: which of several fitting things a prompt gives), "style" (one-hot); "" for an output.
    """

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    source: str = ""

    def check(self, name: str, value: np.ndarray) -> np.ndarray:
        """`value`, contiguous; BadInput where dtype or shape is another."""
        if str(value.dtype) != self.dtype or value.shape != self.shape:
            raise BadInput(
                f"input {name}: expected {self.dtype} {list(self.shape)}, "
                f"got {value.dtype} {list(value.shape)}"
            )
        return np.ascontiguousarray(value)


@dataclass(frozen=True)
class Signature:
    """Named inputs, the picture that comes out, and how a prompt fills them.

    output: (name, spec); values from `low` to `high` become grey levels 0 … 255. layout: one of
    LAYOUTS. styles: names in the order of the style input. tokenizer: length and pad, or None.
    """

    inputs: Mapping[str, TensorSpec]
    output_name: str
    output: TensorSpec
    layout: str
    styles: tuple[str, ...] = ()
    tokenizer: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {
            "inputs": {k: _spec_json(s) for k, s in self.inputs.items()},
            "output": {"name": self.output_name, **_spec_json(self.output)},
            "layout": self.layout,
            "styles": list(self.styles),
            "tokenizer": dict(self.tokenizer) if self.tokenizer else None,
        }


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    row = {"dtype": spec.dtype, "shape": list(spec.shape), "range": [spec.low, spec.high]}
    return row | ({"source": spec.source} if spec.source else {})


def _spec(row: Mapping[str, Any]) -> TensorSpec:
    low, high = row["range"]
    shape = tuple(int(n) for n in row["shape"])
    return TensorSpec(str(row["dtype"]), shape, low, high, str(row.get("source", "")))


def signature_from_json(row: Mapping[str, Any], where: str) -> Signature:
    """Reads what `to_json` wrote. Raises BadInput naming `where` and the part that is wrong."""
    try:
        signature = Signature(
            inputs={k: _spec(s) for k, s in row["inputs"].items()},
            output_name=str(row["output"]["name"]),
            output=_spec(row["output"]),
            layout=str(row["layout"]),
            styles=tuple(row.get("styles") or ()),
            tokenizer=row.get("tokenizer"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise BadInput(f"{where}: the signature is incomplete or malformed ({problem!r})") from None
    for name, spec in signature.inputs.items():
        if spec.source not in SOURCES:
            raise BadInput(f"{where}: input {name} comes from {spec.source!r}; known: {SOURCES}")
    if signature.layout not in LAYOUTS:
        raise BadInput(f"{where}: picture layout {signature.layout!r}; known: {LAYOUTS}")
    return signature
