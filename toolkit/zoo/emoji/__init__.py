"""`emoji`: a prompt becomes a 64×64 RGBA picture in one of seven drawing styles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from .model import Decoder, TextSide
from .student import SmallDecoder

if TYPE_CHECKING:
    from genedge.toolkit.generator import Generator


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"text": TextSide(2048, 160, 384, 1024, 2048), "image": Decoder((256, 160, 96, 64))}


def student() -> Generator:
    """What `genedge distill emoji-teacher` begins with: the teacher's text side, and an untrained
    small decoder."""
    from genedge.toolkit.generator import resolve

    teacher = resolve("emoji-teacher")
    text, image = teacher.components
    fresh = replace(image, module=SmallDecoder())
    return replace(teacher, name="emoji", components=(text, fresh), constructor="emoji")
