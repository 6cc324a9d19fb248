"""Draws the pictures of the documentation with the bundled artifact.

    python tests/benchmarks/pictures.py docs/pictures

hero.png: the README's. held_out.png: 48 held-out pairs, drawn beside the real art (drawn on the
left). styles.png: eight prompts in seven styles. seeds.png: keywords, eight seeds each. upscale.png:
pictures, each beside what `upscale` makes of it in int8. student.png: all golden prompts by the
teacher, by the student and by its int8.
naming-1.png to naming-4.png: 100 training pairs for people to name, 25 each, row by row; the
prompts are in naming.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from genedge.runtime.bundled import bundled
from genedge.runtime.enlarge import by, enlarged, load_upscaler
from genedge.runtime.picture import contact_sheet, to_image
from genedge.runtime.run import load
from genedge.toolkit.generator import golden_seed
from genedge.toolkit.models import resolve
from genedge.toolkit.zoo.emoji.sheets import side_by_side

WHITE, INT8 = (255, 255, 255), "emoji-openvino-int8"
HERO = [
    ("a red apple", "3d"),
    ("grinning cat", "noto"),
    ("rocket", "flat"),
    ("smiling face with sunglasses", "twemoji"),
    ("dog face", "flat"),
    ("umbrella", "noto"),
    ("guitar", "glossy"),
    ("hot beverage", "flat"),
]
STYLED = ["red apple", "dog face", "rocket", "crying face", "umbrella", "pizza", "guitar", "rose"]
ENLARGED = [HERO[0], HERO[2], HERO[5], HERO[6]]
VAGUE = ["animal", "happy face", "fruit", "flower", "sport", "weather", "vehicle", "music"]


def blocky(image: Image.Image, scale: int) -> Image.Image:
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pipeline = load(bundled("emoji"))
    generator = resolve("emoji")

    def pixels(prompt: str, seed: int, style: str = "") -> np.ndarray:
        return pipeline.pixels(pipeline.prepare(prompt, seed, style))

    def draw(prompt: str, seed: int, style: str = "") -> Image.Image:
        return to_image(pixels(prompt, seed, style), WHITE)

    hero = [blocky(draw(p, 1, s), 2) for p, s in HERO]
    contact_sheet(hero, 8).save(out / "hero.png")
    styles = [draw(p, 1, s) for p in STYLED for s in generator.signature.styles]
    contact_sheet(styles, len(generator.signature.styles)).save(out / "styles.png")
    contact_sheet([draw(w, s) for w in VAGUE for s in range(8)], 8).save(out / "seeds.png")

    upscaler, pairs_of_sizes = by(load_upscaler(pipeline)), []
    for prompt, style in ENLARGED:
        large = to_image(enlarged(pixels(prompt, 1, style), upscaler, WHITE), WHITE)
        pairs_of_sizes += [blocky(draw(prompt, 1, style), 4), large]
    contact_sheet(pairs_of_sizes, 4).save(out / "upscale.png")

    names = ("emoji-teacher", "emoji")
    drawers = [*((n, resolve(n)) for n in names), (INT8, load(bundled("emoji", "openvino")))]
    side_by_side(drawers, generator.golden, out / "student.png")
    with Image.open(out / "student.png") as whole:
        whole.quantize(256).save(out / "student.png", optimize=True)

    with np.load(Path(__file__).parents[1] / "data" / "held_out.npz") as held:
        real = dict(zip(held["prompts"].tolist(), held["pictures"], strict=True))
    pairs = [(i, p) for i, p in enumerate(generator.golden) if p.endswith(" style")]
    shown = []
    for i, prompt in pairs[:48]:
        premultiplied = real[prompt].astype(np.int32)
        white = premultiplied[..., :3] + 255 - premultiplied[..., 3:]
        shown += [draw(prompt, golden_seed(i)), Image.fromarray(white.astype(np.uint8))]
    contact_sheet(shown, 16).save(out / "held_out.png")
    (out / "held_out.json").write_text(json.dumps([p for _, p in pairs[:48]], indent=1) + "\n")

    named = generator.calibration[::2][:100]  # every other one is a training pair
    for i in range(0, 100, 25):
        cells = [blocky(draw(p, 5), 2) for p in named[i : i + 25]]
        contact_sheet(cells, 5, gap=8).save(out / f"naming-{i // 25 + 1}.png")
    (out / "naming.json").write_text(json.dumps(named, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
