"""Pictures that go into a generator: from a file or an array to the numbers of an image input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import BadInput
from .signature import Signature, TensorSpec

# By channels: what Pillow calls such a picture, and what people do.
_MODES = {1: ("L", "grey"), 3: ("RGB", "RGB"), 4: ("RGBA", "RGBA")}


def image_values(levels: np.ndarray, name: str, spec: TensorSpec) -> np.ndarray:
    """uint8 (H, W, C), or (H, W) where C is 1 → float32 (1, C, H, W): level 0 is low, 255 high.

    Raises BadInput where dtype or shape is another.
    """
    _, channels, height, width = spec.shape
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.dtype != np.uint8 or levels.shape != (height, width, channels):
        raise BadInput(
            f"input {name}: expected uint8 {[height, width, channels]}, "
            f"got {levels.dtype} {list(levels.shape)}"
        )
    values = spec.low + levels.astype(np.float32) * np.float32((spec.high - spec.low) / 255)
    # A fresh array: an axis that indexing adds has stride 0, which ExecuTorch's lowering refuses.
    fed = np.empty(spec.shape, np.float32)
    fed[0] = values.transpose(2, 0, 1)
    return fed


def image_levels(picture: Image.Image, where: str, name: str, spec: TensorSpec) -> np.ndarray:
    """A PIL picture → uint8 (H, W, C). Nothing is resized or flattened in silence.

    where: what messages call the picture. Raises BadInput for another size or kind: transparency
    where the input has none, colour where it is grey.
    """
    _, channels, height, width = spec.shape
    mode, kind = _MODES[channels]
    if picture.size != (width, height):
        raise BadInput(
            f"{where} is {picture.width} × {picture.height} pixels, input {name} takes "
            f"{width} × {height}; resize it"
        )
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise BadInput(f"{where} is of mode {picture.mode}; save it as an 8-bit {kind} PNG")
    clear = picture.has_transparency_data
    if clear and np.asarray(picture.convert("RGBA"))[..., 3].min() == 255:
        clear = False
    if clear and channels != 4:
        raise BadInput(f"{where} is transparent, input {name} is {kind}; flatten it first")
    if channels == 1 and picture.mode not in ("1", "L", "LA"):
        raise BadInput(f"{where} has colours, input {name} is grey; convert it first")
    levels = np.asarray(picture.convert(mode))
    return levels.reshape(height, width, channels)


def read_image(path: Path, name: str, spec: TensorSpec) -> np.ndarray:
    """A picture file → uint8 (H, W, C). Raises BadInput for what `image_levels` does, and where the
    file is missing or no picture."""
    try:
        with Image.open(path) as picture:
            if picture.size != (spec.shape[3], spec.shape[2]):  # before the pixels are unpacked
                return image_levels(picture, str(path), name, spec)
            picture.load()
            return image_levels(picture, str(path), name, spec)
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise BadInput(f"{path} can not be read as a picture ({str(problem)[:100]})") from None


def named_files(words: list[str], signature: Signature) -> dict[str, Path]:
    """Files by image input, of FILE (where there is one such input) or NAME=FILE.

    Raises BadInput where a name is unknown, said twice, or missing.
    """
    wanted, found = signature.images, dict[str, Path]()
    if words and not wanted:
        raise BadInput("--image: this generator takes no picture")
    for word in words:
        name, equals, file = word.partition("=")
        if not (equals and name in wanted):
            if len(wanted) > 1:
                raise BadInput(f"--image {word}: write NAME=FILE; names: {', '.join(wanted)}")
            name, file = next(iter(wanted)), word
        if name in found:
            raise BadInput(f"--image {word}: input {name} has a picture already")
        found[name] = Path(file)
    missing = [n for n in wanted if n not in found]
    if missing:
        hint = "FILE" if len(wanted) == 1 else f"{missing[0]}=FILE"
        raise BadInput(f"input {missing[0]} needs a picture; name it with --image {hint}")
    return found


def check_names(signature: Signature, images: Iterable[str]) -> None:
    """Raises BadInput where the generator has no image input of one of these names."""
    for name in images:
        if name not in signature.images:
            raise BadInput(f"picture {name!r}: this generator has no such image input")


def image_inputs(
    signature: Signature, images: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """float32 inputs of uint8 pictures by input. Raises BadInput for a missing or unknown one."""
    images = images or {}
    check_names(signature, images)
    values = {}
    for name, spec in signature.images.items():
        if name not in images:
            raise BadInput(f"input {name} needs a picture")
        values[name] = image_values(images[name], name, spec)
    return values
