"""Writes a page: what each part of the quantizer buys, by leaving it out.

    PYTHONPATH=tests python tests/benchmarks/parts.py docs/parts.md [MODEL…]

The simulation against the float generator, on all golden prompts; one row for each of
`quantize.PARTS`, and one for all of them left out.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHORT = {
    "histogram": "ranges by histogram (min-max instead)",
    "equalization": "equalization across layers",
    "rounding": "learned rounding of weights (the nearest numbers instead)",
    "floors": "no steps for what a ReLU drops",
    "flat": "stretch before the last clamp",
    "bias": "correction of the last bias",
    "whole-biases": "biases in whole steps",
    "ties": "means, products, sums and layers without ties",
    "handed-on": "one grid for what a component hands to the next",
}


def drawn(generator: Any) -> list[np.ndarray]:
    """uint8 pictures of the golden prompts."""
    from genedge.runtime.picture import to_pixels
    from genedge.toolkit.generator import golden_seed

    name = generator.signature.output_name
    feeds = [
        generator.prepare(p, golden_seed(i), images=generator.images_of(p))
        for i, p in enumerate(generator.golden)
    ]
    with torch.no_grad():
        return [to_pixels(generator.tensors(f)[name].numpy(), generator.signature) for f in feeds]


def row(generator: Any, true: list[np.ndarray], label: str, cpu: str, without: Any) -> str:
    """One way to quantize: mean and worst PSNR, SSIM, flat ground, signed error, seconds."""
    from genedge.runtime.metrics import flat_kept, picture_psnr, picture_ssim, signed_error
    from genedge.toolkit.quantize import quantize, simulated

    began = time.perf_counter()
    quantized = quantize(generator, cpu=cpu, without=without)
    seconds = time.perf_counter() - began
    pairs = list(zip(drawn(simulated(generator, quantized)), true, strict=True))
    psnr = [picture_psnr(a, b) for a, b in pairs]
    kept, flat = np.sum([flat_kept(a, b) for a, b in pairs], axis=0)
    signed = np.mean([signed_error(a, b) for a, b in pairs], axis=0)
    return (
        f"| {label} | {np.mean(psnr):.2f} | {min(psnr):.1f} "
        f"| {np.mean([picture_ssim(a, b) for a, b in pairs]):.4f} "
        f"| {kept / flat if flat else 1:.4f} | {max(signed, key=abs):+.2f} | {seconds:.0f} "
        f"| {', '.join(quantized.ranges.values())} |"
    )


def table(model: str) -> list[str]:
    from genedge.toolkit.models import resolve
    from genedge.toolkit.quantize import PARTS

    generator = resolve(model)
    true = drawn(generator)
    lines = [
        f"## {generator.name}",
        "",
        "| left out | PSNR | worst | SSIM | flat ground | signed | seconds | ranges |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ways = [("nothing", "portable", ())]
    ways += [(SHORT[part], "portable", (part,)) for part in PARTS]
    ways += [("all of these", "portable", PARTS), ("nothing, `--cpu vnni`", "vnni", ())]
    for label, cpu, without in ways:
        lines.append(row(generator, true, label, cpu, without))
        print(f"{model}: {lines[-1]}", flush=True)
    return [*lines, ""]


def main(page: Path, models: list[str]) -> None:
    from genedge.runtime.host import cpu_name

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# What each part of the quantizer buys",
        "",
        "<!-- Written by make bench-parts; do not edit. -->",
        "",
        "Simulation to float, all golden prompts, 128 calibration prompts at most, one thread of "
        f"{cpu_name()}; dB.",
        "Each row leaves one part out; seconds are of a busy machine. A part that serves one generator can cost another one; of ways to "
        "set ranges each component takes the best.",
        "",
    ]
    for model in models:
        lines += table(model)
        page.write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["upscale", "emoji"])
