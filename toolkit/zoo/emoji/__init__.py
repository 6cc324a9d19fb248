"""`emoji`: a prompt becomes a 64×64 RGBA picture in one of seven drawing styles.

`emoji-teacher`, pruned to a tenth of its decoder and trained on, with bounded layers.
"""

from __future__ import annotations

from torch import nn

from .model import Chooser, Decoder, TextSide


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name, of before the text side decided; a saved generator says
    which channels it keeps."""
    return {"text": TextSide(bounded=True), "image": Decoder(bounded=True)}


def choosing() -> dict[str, nn.Module]:
    """Like `components`, with a text side that decides."""
    return {"text": Chooser(), "image": Decoder(bounded=True)}
