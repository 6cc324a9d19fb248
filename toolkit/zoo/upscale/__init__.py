"""`upscale`: a 64×64 RGB picture becomes 256×256. Weights trained by the authors of Real-ESRGAN."""

from __future__ import annotations

from torch import nn

from .model import Compact


def components() -> dict[str, nn.Module]:
    """Untrained modules by component name; a saved generator fills them."""
    return {"upscale": Compact()}
