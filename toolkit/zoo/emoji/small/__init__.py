"""`emoji-small`: the text side of `emoji-teacher`, and a decoder of a tenth of its size.

Its weights are in the repository, not in wheels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..model import TextSide
from ..student import SmallDecoder

if TYPE_CHECKING:
    from genedge.toolkit.generator import Generator


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": TextSide(), "image": SmallDecoder()}


def begun() -> Generator:
    """What `genedge distill emoji-teacher --components image` begins with: the teacher's text side,
    and an untrained small decoder."""
    from genedge.toolkit.generator import resolve

    teacher = resolve("emoji-teacher")
    text, image = teacher.components
    torch.manual_seed(0)
    fresh = replace(image, module=SmallDecoder())
    return replace(teacher, name="emoji-small", constructor="emoji-small", components=(text, fresh))
