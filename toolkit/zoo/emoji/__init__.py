"""`emoji`: a prompt becomes a 64×64 RGBA picture in one of seven drawing styles."""

from __future__ import annotations

from torch import nn

from .model import Decoder, TextSide


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": TextSide(), "image": Decoder()}
