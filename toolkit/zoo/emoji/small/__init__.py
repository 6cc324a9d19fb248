"""`emoji-small`: distilled from `emoji-teacher` to a tenth of its decoder."""

from __future__ import annotations

from torch import nn

from ..student import SmallDecoder, small_text


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": small_text(), "image": SmallDecoder()}
