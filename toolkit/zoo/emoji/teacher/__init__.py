"""`emoji-teacher`: what `emoji` is pruned from; its weights are in the repository, not in wheels."""

from __future__ import annotations

from torch import nn

from ..model import Decoder, TextSide


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": TextSide(), "image": Decoder()}
