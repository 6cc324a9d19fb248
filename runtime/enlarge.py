"""Enlarges a drawn picture by a second artifact: the chain behind `generate --upscale`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .bundled import bundled
from .errors import BadInput
from .picture import over
from .run import Pipeline, load

# uint8 (H, W, 3) → uint8 (s H, s W, 4), opaque.
Enlarge = Callable[[np.ndarray], np.ndarray]
_WHITE = (255, 255, 255)


def load_upscaler(pipeline: Pipeline, threads: int = 1) -> Pipeline:
    """The bundled `upscale`, on the same runtime where the package carries it for that.

    Raises BadInput where its input has not the size of the pipeline's picture; what `load` raises.
    """
    found = load(bundled("upscale", pipeline.artifact.target), threads)
    (spec,) = found.artifact.signature.images.values()
    size, wanted = pipeline.artifact.signature.output.shape[2:], spec.shape[2:]
    if size != wanted:
        raise BadInput(
            f"--upscale enlarges pictures of {wanted[1]} × {wanted[0]} pixels; "
            f"{pipeline.artifact.name} draws {size[1]} × {size[0]}"
        )
    return found


def by(upscaler: Pipeline) -> Enlarge:
    """What `enlarged` calls, of a loaded artifact with one RGB input picture."""
    (name,) = upscaler.artifact.signature.images
    return lambda colours: upscaler.pixels(upscaler.prepare("", 0, images={name: colours}))


def enlarged(
    pixels: np.ndarray, enlarge: Enlarge, ground: tuple[int, int, int] | None
) -> np.ndarray:
    """uint8 (H, W, 4), straight alpha → (s H, s W, 4).

    Over `ground` where one is named: the result is opaque. Else colour over white and alpha, as
    grey, are enlarged on their own, and white is taken out of the colour again: over white the
    result is what the enlargement over white was.
    """
    colours = enlarge(np.ascontiguousarray(over(pixels, ground or _WHITE)))[..., :3]
    if ground is not None or (pixels[..., 3] == 255).all():
        return np.concatenate([colours, np.full_like(colours[..., :1], 255)], -1)
    grey = np.ascontiguousarray(np.repeat(pixels[..., 3:], 3, -1))
    alpha = np.rint(enlarge(grey)[..., :3].mean(-1, keepdims=True)).astype(np.int32)
    premultiplied = np.clip(colours.astype(np.int32) - (255 - alpha), 0, alpha)
    straight = (255 * premultiplied + alpha // 2) // np.maximum(alpha, 1)
    both = np.concatenate([straight, alpha], -1)
    return np.where(alpha > 0, both, 0).astype(np.uint8)
