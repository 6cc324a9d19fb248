"""`emoji-teacher`: what `emoji` is pruned from; its weights are in the repository, not in wheels."""

from __future__ import annotations

from torch import nn

from ..model import Chooser, Decoder, TextSide


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name, of before the text side decided; a saved generator fills
    them."""
    return {"text": TextSide(), "image": Decoder()}


def choosing() -> dict[str, nn.Module]:
    """Like `components`, with a text side that decides."""
    return {"text": Chooser(), "image": Decoder()}
