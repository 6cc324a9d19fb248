"""`emoji`: a prompt becomes a 64×64 RGBA picture in one of seven drawing styles."""

from __future__ import annotations

from torch import nn

from .model import Decoder, TextSide


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    text = TextSide(vocabulary=2048, embedding=160, width=384, hidden=1024, things=2048)
    return {"text": text, "image": Decoder((256, 160, 96, 64))}
