"""Contact sheets: what generators draw, side by side, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from genedge.runtime.picture import over
from genedge.runtime.run import Pipeline
from genedge.toolkit.generator import Generator, golden_seed

WHITE, GAP, LINE = (255, 255, 255), 4, 11
VAGUE = ("animal", "happy face", "fruit", "flower", "sport", "weather", "vehicle", "music")
Drawer = Generator | Pipeline


def _drawn(drawer: Drawer, prompt: str, seed: int, style: str = "") -> np.ndarray:
    pixels = drawer.pixels(drawer.prepare(prompt, seed, style))
    return over(pixels, WHITE).astype(np.uint8)


def side_by_side(
    drawers: Sequence[tuple[str, Drawer]], prompts: Sequence[str], path: Path, columns: int = 4
) -> None:
    """One cell for each prompt: what each drawer draws of it with the same seed, the prompt below.

    drawers: names, for the title, and generators or opened artifacts. Writes a PNG.
    """
    side = _drawn(drawers[0][1], prompts[0], golden_seed(0)).shape[0]
    width, height = len(drawers) * side + 2 * GAP, side + LINE + GAP
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * width, LINE + GAP + rows * height), WHITE)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 0), " | ".join(name for name, _ in drawers), fill=(0, 0, 0))
    for i, prompt in enumerate(prompts):
        x, y = i % columns * width + GAP, LINE + GAP + i // columns * height
        for k, (_, drawer) in enumerate(drawers):
            sheet.paste(Image.fromarray(_drawn(drawer, prompt, golden_seed(i))), (x + k * side, y))
        shown = prompt if prompt.isascii() else f"(no. {i})"  # Pillow's own font has Latin letters
        pen.text((x, y + side - 1), shown[: len(drawers) * side // 6], fill=(0, 0, 0))
    sheet.save(path)


def seeds(drawer: Drawer, prompts: Sequence[str], path: Path, count: int = 8) -> None:
    """One row for each prompt: `count` seeds, in one style each. Writes a PNG."""
    styles = drawer.signature.styles if isinstance(drawer, Generator) else ()
    side = _drawn(drawer, prompts[0], 0).shape[0]
    sheet = Image.new("RGB", (count * (side + GAP), len(prompts) * (side + LINE + GAP)), WHITE)
    pen = ImageDraw.Draw(sheet)
    for i, prompt in enumerate(prompts):
        y = i * (side + LINE + GAP)
        style = styles[i % len(styles)] if styles else ""
        pen.text((GAP, y), f"{prompt}, {style} style" if style else prompt, fill=(0, 0, 0))
        for k in range(count):
            picture = Image.fromarray(_drawn(drawer, prompt, k, style))
            sheet.paste(picture, (k * (side + GAP), y + LINE))
    sheet.save(path)
