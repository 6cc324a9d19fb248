"""`emoji-small`: the text side of `emoji-teacher`, bounded, and a decoder of a tenth of its size.

Its weights are in the repository, not in wheels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..model import TextSide
from ..student import SmallDecoder, bounded

if TYPE_CHECKING:
    from genedge.toolkit.generator import Generator


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": TextSide(bounded=True), "image": SmallDecoder()}


def begun() -> Generator:
    """What `genedge distill emoji-teacher --components image` begins with: the teacher's text side,
    bounded, and an untrained small decoder."""
    from genedge.toolkit.generator import resolve

    teacher = resolve("emoji-teacher")
    text, image = teacher.components
    torch.manual_seed(0)
    assert isinstance(text.module, TextSide)
    both = replace(text, module=bounded(text.module)), replace(image, module=SmallDecoder())
    return replace(teacher, name="emoji-small", constructor="emoji-small", components=both)
