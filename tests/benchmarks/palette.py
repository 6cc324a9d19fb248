"""Writes a page: would a palette of few int8 values for each layer's weights be worth storing?

    python tests/benchmarks/palette.py docs/palette.md [MODEL…]

The int8 graph's weights are clustered by k-means, one dimension, layer by layer, to 2^bits of the
255 whole numbers, as they would be expanded at load. Simulation on all golden prompts.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import drawn

BITS = (6, 5, 4)


def palette(counts: np.ndarray, size: int) -> np.ndarray:
    """For each whole number from −128 to 127 its nearest of `size` centres, by Lloyd's algorithm on
    the histogram, begun at equal shares of the weights."""
    values = np.arange(-128, 128)
    share = np.cumsum(counts) / counts.sum()
    centres = np.interp((np.arange(size) + 0.5) / size, share, values)
    for _ in range(200):
        nearest = np.abs(values[:, None] - centres[None]).argmin(1)
        sums = np.bincount(nearest, counts * values, size)
        weight = np.bincount(nearest, counts, size)
        moved = np.where(weight > 0, sums / np.maximum(weight, 1), centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.asarray(centres.round()[nearest], np.int8)


def int8_weights(graph: Any) -> list[torch.Tensor]:
    """Weights of convolutions and linear layers, as the graph stores them."""
    per_channel = torch.ops.quantized_decomposed.dequantize_per_channel.default
    found = []
    for node in graph.graph.nodes:
        if node.target is per_channel and node.args[0].op == "get_attr":
            value: Any = graph
            for part in str(node.args[0].target).split("."):
                value = getattr(value, part)
            found.append(value)
    return found


def table(model: str) -> list[str]:
    from dataclasses import replace

    from genedge.runtime.metrics import picture_psnr
    from genedge.toolkit.models import resolve
    from genedge.toolkit.quantize import quantize

    generator = resolve(model)
    quantized = quantize(generator)
    true = drawn(generator)
    components = [replace(c, module=quantized.graphs[c.name]) for c in generator.components]
    small = replace(generator, components=tuple(components))
    plain = drawn(small)
    weights = [w for c in components for w in int8_weights(c.module)]
    kept = [w.clone() for w in weights]
    count = sum(w.numel() for w in weights)

    def to_float(pictures: list[np.ndarray]) -> list[float]:
        return [picture_psnr(a, b) for a, b in zip(pictures, true, strict=True)]

    def zipped(tensors: list[torch.Tensor], bits: int) -> float:
        """Bytes after deflate of the numbers packed as they would be stored, by weight."""
        size = 0
        for t in tensors:
            codes = np.unique(t.numpy(), return_inverse=True)[1].astype(np.uint8)
            packed = np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 8 - bits :]
            size += len(zlib.compress(np.packbits(packed).tobytes(), 9))
        return size / count

    scores = to_float(plain)
    lines = [
        f"## {generator.name}",
        "",
        f"{count:,} int8 weights of convolutions and linear layers.",
        "",
        "| stored as | bytes ÷ int8 | after deflate | PSNR to float, worst | PSNR to the int8 picture |",
        "|---|---|---|---|---|",
        f"| int8 | 1.00 | {zipped(kept, 8):.2f} | {np.mean(scores):.1f}, {min(scores):.1f} | |",
    ]
    for bits in BITS:
        for w, full in zip(weights, kept, strict=True):
            counts = np.bincount(full.flatten().numpy().astype(np.int64) + 128, minlength=256)
            w.copy_(torch.from_numpy(palette(counts, 2**bits)[full.long().numpy() + 128]))
        pictures = drawn(small)
        scores = to_float(pictures)
        near = [picture_psnr(a, b) for a, b in zip(pictures, plain, strict=True)]
        stored = (bits / 8 * count + len(weights) * 2**bits) / count
        lines.append(
            f"| palette, {bits} bits | {stored:.2f} | {zipped(weights, bits):.2f} "
            f"| {np.mean(scores):.1f}, {min(scores):.1f} | {np.mean(near):.1f} |"
        )
        print(f"{model}: {lines[-1]}", flush=True)
    return [*lines, ""]


def main(page: Path, models: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# A palette of weights",
        "",
        "<!-- Written by make bench-palette; do not edit. -->",
        "",
        "Each layer's int8 weights clustered to 2^bits of their values, layer by layer, by k-means. A "
        "palette is worth a format of its own where it saves 20 % at 45 dB to the int8 picture. "
        "After deflate: of the packed numbers, as a wheel or an app's package stores them.",
        "",
    ]
    for model in models:
        lines += table(model)
    page.write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["upscale", "emoji"])
