"""Drawings of prompts and seeds in batches: what distillation learns from and is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from genedge.runtime.errors import BadInput
from genedge.runtime.metrics import picture_psnr

from .generator import Component, Generator, golden_seed

Named = dict[str, Tensor]


def batch_of(
    teacher: Generator, prompts: Sequence[str], seed: int, step: int, size: int
) -> list[dict[str, np.ndarray]]:
    """Inputs of the pictures of one step; the same numbers give the same inputs everywhere."""
    random = np.random.default_rng([seed, step])
    picked = random.integers(len(prompts), size=size)
    seeds = random.integers(2**31, size=size)
    return [
        teacher.prepare(prompts[int(p)], int(s)).inputs for p, s in zip(picked, seeds, strict=True)
    ]


def stacked(feeds: Sequence[Mapping[str, np.ndarray]], device: torch.device) -> Named:
    """Inputs of several pictures in one batch: the first axis of each is their number."""
    return {k: torch.from_numpy(np.concatenate([f[k] for f in feeds])).to(device) for k in feeds[0]}


def drawn(components: Sequence[Component], inputs: Named) -> Named:
    """Every named tensor, with gradients; see Generator.tensors."""
    named = dict(inputs)
    for c in components:
        results = c.module(*(named[n] for n in c.inputs))
        results = results if isinstance(results, tuple) else (results,)
        named |= dict(zip(c.outputs, results, strict=True))
    return named


def check_batches(generator: Generator, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """BadInput where a component does not draw several pictures as it draws them one by one."""
    name = generator.signature.output_name
    cpu = torch.device("cpu")
    with torch.no_grad():
        single = [drawn(generator.components, stacked([f], cpu))[name] for f in feeds]
        try:
            both = drawn(generator.components, stacked(feeds, cpu))[name]
            fine = torch.allclose(both, torch.cat(single), atol=1e-3)
        except Exception:  # the forward of any module may raise anything
            fine = False
    if not fine:
        raise BadInput(
            f"{generator.name} draws one picture at a time (its forward fixes the batch); "
            f"use --batch 1"
        )


def psnr_to(
    teacher: Generator, student: Generator, prompts: Sequence[str] = (), count: int = 64
) -> float:
    """Mean PSNR, in dB, of the student's pictures to the teacher's; golden prompts if none given."""
    prompts = (prompts or teacher.golden or teacher.calibration or ("a picture",))[:count]
    found = []
    for i, prompt in enumerate(prompts):
        feed = teacher.prepare(prompt, golden_seed(i))
        found.append(picture_psnr(student.pixels(feed), teacher.pixels(feed)))
    return float(np.mean(found))
