"""Writes tests/vectors/: what another language's noise, choices, token ids, pixels and metrics must
equal."""

import json
from pathlib import Path

import numpy as np

from genedge.runtime.bundled import bundled
from genedge.runtime.metrics import (
    flat_kept,
    max_error,
    picture_psnr,
    picture_ssim,
    signed_error,
)
from genedge.runtime.noise import MEANING_CHOICE, choice, noise, philox
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import load
from genedge.runtime.signature import Signature, TensorSpec

HERE = Path(__file__).parent / "vectors"
SEEDS = [0, 1, 2, 42, 1000, 2**31 - 1, 2**32, 2**32 + 1, 2**53 + 1, 2**63 - 1]
TEXTS = [
    "a red apple",
    "A RED APPLE",
    "grinning face with big eyes",
    "it's o'clock",
    "wow!!!",
    "two  spaces",
    " leading and trailing ",
    "line\r\nbreak\tand tab",
    "İstanbul ıI",
    "e\u0301 and é",
    "👩\u200d🚀",
    "שלום",
    "红苹果",
    "word " * 40,
]


def picture(seed: int, side: int) -> np.ndarray:
    """uint8 (side, side, 4): the bytes of stream 2, every seventh pixel flat."""
    words = philox(seed, 2, side * side // 4)
    pixels = words.astype("<u4").view(np.uint8).reshape(-1, 4).copy()
    pixels[::7] = 255
    pixels[3::7, 3] = 0
    return pixels.reshape(side, side, 4)


def near(seed: int, reference: np.ndarray) -> np.ndarray:
    """`reference`, each byte changed by at most 4."""
    step = picture(seed, len(reference)).astype(np.int32) % 9 - 4
    return np.clip(reference + step, 0, 255).astype(np.uint8)


def metrics_row(seed: int, side: int) -> dict[str, object]:
    reference = picture(seed, side)
    mine = near(seed + 1, reference)
    return {
        "seed": seed,
        "side": side,
        "psnr": picture_psnr(mine, reference),
        "ssim": picture_ssim(mine, reference),
        "max_error": max_error(mine, reference),
        "signed": signed_error(mine, reference).tolist(),
        "flat": list(flat_kept(mine, reference)),
    }


def pixels_row(seed: int, layout: str, low: float) -> dict[str, object]:
    channels = {"gray": 1, "rgb": 3}.get(layout, 4)
    signature = Signature({}, "picture", TensorSpec("float32", (1, channels, 8, 8), low, 1), layout)
    values = noise(seed, (1, channels, 8, 8)) / np.float32(4) + np.float32(0.5)
    rgba = to_pixels(values, signature).tobytes().hex()
    return {"seed": seed, "layout": layout, "low": low, "rgba": rgba}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    rows = {
        "noise": [
            {"seed": str(s), "bits": noise(s, (16,)).view(np.uint32).tolist()} for s in SEEDS
        ],
        "choices": [
            {
                "seed": str(s),
                "style_of_seven": choice(s, 7),
                "meaning_of_sixteen": choice(s, 16, MEANING_CHOICE),
            }
            for s in SEEDS
        ],
    }
    (HERE / "noise.json").write_text(json.dumps(rows, indent=1) + "\n")
    pictures = {
        "metrics": [metrics_row(seed, side) for seed, side in ((3, 16), (5, 32), (7, 12))],
        "pixels": [
            pixels_row(seed, layout, low)
            for seed, layout in enumerate(("gray", "rgb", "rgba-premultiplied", "rgba"), 11)
            for low in (0.0, -1.0)
        ],
    }
    (HERE / "pictures.json").write_text(json.dumps(pictures, indent=1) + "\n")
    tokenizer = load(bundled("emoji")).tokenizer
    tokens = [{"text": t, "ids": tokenizer.encode(t)[0][0].tolist()} for t in TEXTS]
    (HERE / "tokens.json").write_text(json.dumps(tokens, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
