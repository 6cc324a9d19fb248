"""What a generator takes and gives: shared by the toolkit's Generator and an artifact's manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import BadInput

SOURCES = ("prompt", "noise", "meaning", "style", "image")
LAYOUTS = ("rgba-premultiplied", "rgba", "rgb", "gray")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: dtype name, static shape, the range of its values, and what fills it.

    source: "prompt" (token ids), "noise" (from the seed), "meaning" (one-hot of a choice by the
    seed: which of several fitting things a prompt gives), "style" (one-hot), "image" (a picture: 1, 3
    or 4 channels, low is level 0 and high level 255); "" for an output.
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

    @property
    def takes_text(self) -> bool:
        """Whether an input is filled from the prompt."""
        return any(s.source == "prompt" for s in self.inputs.values())

    @property
    def uses_seed(self) -> bool:
        """Whether the seed changes any input."""
        seeded = any(s.source in ("noise", "meaning") for s in self.inputs.values())
        return seeded or bool(self.styles)

    @property
    def images(self) -> dict[str, TensorSpec]:
        """The inputs that are filled from pictures."""
        return {n: s for n, s in self.inputs.items() if s.source == "image"}

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


def _is_picture(spec: TensorSpec) -> bool:
    shape = spec.shape
    return (
        spec.dtype == "float32"
        and len(shape) == 4
        and shape[0] == 1
        and shape[1] in (1, 3, 4)
        and spec.low < spec.high
    )


def _check_values(signature: Signature) -> None:
    """Raises ValueError, TypeError or KeyError where a range, the styles or the tokenizer say nothing
    that a picture could be drawn with."""
    output, tokenizer = signature.output, signature.tokenizer
    if not -math.inf < output.low < output.high < math.inf:
        raise ValueError(f"a picture from {output.low} to {output.high}")
    for name, spec in signature.inputs.items():
        if not spec.low <= spec.high:
            raise ValueError(f"input {name} from {spec.low} to {spec.high}")
        if spec.source == "style" and spec.shape[-1:] != (len(signature.styles),):
            raise ValueError(f"input {name} {list(spec.shape)} of {len(signature.styles)} styles")
    if tokenizer is not None and not (int(tokenizer["length"]) > 0 <= int(tokenizer["pad"])):
        raise ValueError(f"tokenizer {dict(tokenizer)}")


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
        if spec.source == "image" and not _is_picture(spec):
            raise BadInput(
                f"{where}: image input {name} is {spec.dtype} {list(spec.shape)}; an image is "
                f"float32 [1, 1 or 3 or 4, height, width]"
            )
    try:
        _check_values(signature)
    except (KeyError, TypeError, ValueError) as problem:
        raise BadInput(f"{where}: the signature is malformed ({problem!r})") from None
    if signature.layout not in LAYOUTS:
        raise BadInput(f"{where}: picture layout {signature.layout!r}; known: {LAYOUTS}")
    return signature
