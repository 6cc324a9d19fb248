"""What an artifact loses against the real art, prompt by prompt beside the float generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genedge.runtime.bootstrap import mean_difference
from genedge.runtime.errors import BadInput
from genedge.runtime.run import load
from genedge.toolkit.generator import Generator
from genedge.toolkit.train import Report

from .captions import captions_of
from .data import STYLES, Art
from .judge import nearest_emoji, picture_psnr


def premultiplied(pixels: list[np.ndarray]) -> Tensor:
    """uint8 (H, W, 4) with straight alpha, each → uint8 (N, 4, H, W), as the art is stored."""
    whole = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    return torch.cat([whole[:, :3] * whole[:, 3:] / 255, whole[:, 3:]], 1).round().to(torch.uint8)


def lost_to_truth(
    generator: Generator, artifact: Path, art: Art, count: int, report: Report
) -> dict[str, float]:
    """PSNR and R@1 of `count` training pairs, drawn by both from the same prompts and seeds.

    "…_lost" is float less artifact, with the 99 % interval of a paired bootstrap over prompts in
    "…_low" and "…_high". Raises what `genedge.runtime.run.load` raises, and BadInput where the artifact
    is of another generator.
    """
    captions = captions_of(art)
    rows = np.random.default_rng(11).permutation(np.flatnonzero(art.train))[:count]
    drawn: list[list[np.ndarray]] = [[], []]
    with load(artifact) as pipeline:
        if pipeline.artifact.generator_hash != generator.hash():
            raise BadInput(f"{artifact} was exported from another generator than {generator.name}")
        for i, row in enumerate(rows):
            style = STYLES[art.style_of[row]]
            prompt = f"{captions.names[int(art.emoji_of[row])]}, {style} style"
            feed = generator.prepare(prompt, int(row))
            drawn[0].append(generator.pixels(feed))
            drawn[1].append(pipeline.pixels(pipeline.prepare(prompt, int(row))))
            report("draw", i + 1, len(rows), {})
    real = torch.from_numpy(art.pictures[rows]).permute(0, 3, 1, 2)
    found: dict[str, float] = {"prompts": float(len(rows))}
    scores: dict[str, list[np.ndarray]] = {"psnr": [], "r1": []}
    for who, pictures in zip(("float", "artifact"), drawn, strict=True):
        values = premultiplied(pictures)
        near = nearest_emoji(values, art.style_of[rows], art, 1)[:, 0]
        scores["psnr"].append(picture_psnr(values, real).numpy())
        scores["r1"].append((near == art.emoji_of[rows]).astype(np.float64))
        found |= {f"{k}_{who}": float(v[-1].mean()) for k, v in scores.items()}
    for name, (plain, small) in scores.items():
        interval = mean_difference(plain, small)
        found |= {f"{name}_lost": interval.value}
        found |= {f"{name}_lost_low": interval.low, f"{name}_lost_high": interval.high}
    return found
