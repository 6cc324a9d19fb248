"""From the numbers that a generator gives to the picture that is saved."""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import BadInput, EnvironmentFailed
from .files import replacing
from .signature import Signature


def to_pixels(values: np.ndarray, signature: Signature) -> np.ndarray:
    """float32 (1, C, H, W) → uint8 (H, W, 4), straight alpha.

    Each value becomes the nearest of 256 levels between the output's low and high. Premultiplied
    colour is first limited to alpha, then divided: (255 p + ⌊a/2⌋) ÷ a in whole numbers; where
    alpha is 0 all four are 0, in straight `rgba` too. Non-finite values become level 0.
    """
    spec = signature.output
    scaled = (values[0].astype(np.float64) - spec.low) * (255 / (spec.high - spec.low))
    levels = np.clip(np.rint(np.nan_to_num(scaled, nan=0.0)), 0, 255).astype(np.int64)
    levels = levels.transpose(1, 2, 0)
    if signature.layout == "gray":
        levels = np.repeat(levels[..., :1], 3, -1)
    if signature.layout == "rgba":
        return np.where(levels[..., 3:] > 0, levels, 0).astype(np.uint8)
    if signature.layout != "rgba-premultiplied":
        return np.concatenate([levels, np.full_like(levels[..., :1], 255)], -1).astype(np.uint8)
    alpha = levels[..., 3:]
    colour = np.minimum(levels[..., :3], alpha)
    straight = np.where(alpha > 0, (255 * colour + alpha // 2) // np.maximum(alpha, 1), 0)
    return np.concatenate([straight, alpha], -1).astype(np.uint8)


def over(pixels: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """uint8 (…, 4), straight alpha, over one colour → uint8 (…, 3), rounded in whole numbers."""
    alpha = pixels[..., 3:].astype(np.int32)
    mixed = pixels[..., :3] * alpha + np.array(ground, np.int32) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def parse_background(text: str) -> tuple[int, int, int] | None:
    """`white`, `transparent` (None) or `#rrggbb`. Raises BadInput for anything else."""
    if text == "transparent":
        return None
    if text == "white":
        return (255, 255, 255)
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))
    raise BadInput(f"background {text!r} is unknown; use white, transparent or #rrggbb")


def to_image(pixels: np.ndarray, background: tuple[int, int, int] | None) -> Image.Image:
    """A PIL image: RGBA where background is None, else RGB over it."""
    return Image.fromarray(pixels if background is None else over(pixels, background))


def suspicion(pixels: np.ndarray) -> str:
    """Why these pixels can hardly be a drawing ("" where nothing is suspicious).

    uint8 (H, W, 4). Names constant pictures and noise: a picture whose neighbouring pixels differ
    by more than a third of what pixels of a shuffled copy differ by.
    """
    white = over(pixels, (255, 255, 255)).astype(np.float64)
    if np.ptp(white.reshape(-1, 3), axis=0).max() <= 4:
        return _one_colour(pixels)
    near = np.abs(np.diff(white, axis=1)).mean()
    mixed = np.random.default_rng(0).permutation(white.reshape(-1, 3))
    far = np.abs(np.diff(mixed, axis=0)).mean()
    return "the picture looks like noise" if near > 0.75 * far else ""


def _one_colour(pixels: np.ndarray) -> str:
    """What to call a picture of one colour; uint8 (H, W, 4), straight alpha."""
    if not pixels[..., 3].any():
        return "the picture is empty: every pixel is transparent"
    red, green, blue = (int(v) for v in over(pixels, (255, 255, 255))[0, 0])
    if max(red, green, blue) - min(red, green, blue) <= 4:
        name = "black" if red <= 8 else "white" if red >= 247 else "grey"
        return f"the picture is {name}: every pixel is {red}, {green}, {blue}"
    return f"every pixel has the same colour ({red}, {green}, {blue})"


def _xmp() -> str:
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(source)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def save_png(image: Image.Image, path: Path, about: dict[str, str]) -> None:
    """Writes a PNG whole or not at all, with `about` as text and the mark for generated pictures.

    The mark is XMP, IPTC DigitalSourceType trainedAlgorithmicMedia. Raises BadInput where the
    folder is missing or not writable, EnvironmentFailed where the disk is full.
    """
    info = PngInfo()
    for key, value in about.items():
        info.add_itxt(key, value)
    info.add_itxt("XML:com.adobe.xmp", _xmp())
    try:
        with replacing(path) as partial:
            image.save(partial, format="PNG", pnginfo=info)
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as problem:
        raise BadInput(
            f"{path}: can not be written ({problem.strerror}); choose another place"
        ) from None
    except OSError as problem:
        raise EnvironmentFailed(
            f"{path}: {problem.strerror}; free some space and try again"
        ) from None


def contact_sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """All images of one size, side by side on white, row by row."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (255, 255, 255)
    )
    for i, image in enumerate(images):
        at = (gap + i % columns * (width + gap), gap + i // columns * (height + gap))
        sheet.paste(image, at, image if image.mode == "RGBA" else None)
    return sheet
