"""Drawings of prompts and seeds in batches: what distillation learns from and is judged by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genedge.runtime.errors import BadInput
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.run import Feed

from .generator import Component, Generator, golden_seed

Named = dict[str, Tensor]
JUDGED = 64


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


def prepared(generator: Generator, prompt: str) -> Feed:
    """What the generator is fed for this prompt; BadInput names the prompt where it can not be."""
    try:
        return generator.prepare(prompt, 0)
    except BadInput as problem:
        shown = prompt if len(prompt) <= 60 else prompt[:59] + "…"
        raise BadInput(f"prompt {shown!r}: {problem}") from None


def check_fits(student: Generator, teacher: Generator, feed: Mapping[str, np.ndarray]) -> None:
    """BadInput where the student can not be run on what its teacher takes, or draws another shape."""
    inputs = stacked([feed], torch.device("cpu"))
    try:
        with torch.no_grad():
            picture = drawn(student.components, inputs)[teacher.signature.output_name]
    except Exception as problem:  # the forward of any module may raise anything
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
        raise BadInput(
            f"{student.name} can not be run on what {teacher.name} takes: {line}"
        ) from problem
    if picture.shape != teacher.signature.output.shape:
        raise BadInput(
            f"{student.name} draws {list(picture.shape)}, {teacher.name} "
            f"{list(teacher.signature.output.shape)}"
        )


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


def check_learns(
    student: Generator,
    feeds: Sequence[Mapping[str, np.ndarray]],
    mode: Callable[[nn.Module], None],
) -> None:
    """BadInput where the student does not draw as it is trained. mode: puts a module in training mode;
    a copy is tried."""
    trial = copy.deepcopy(student)
    for c in trial.components:
        mode(c.module)
    name, wanted = student.signature.output_name, student.signature.output.shape
    try:
        with torch.no_grad():
            picture = drawn(trial.components, stacked(feeds, torch.device("cpu")))[name]
        why = "" if picture.shape[1:] == wanted[1:] else f"it draws {list(picture.shape)}"
    except Exception as problem:  # the forward of any module may raise anything
        why = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
    if why:
        raise BadInput(
            f"{student.name} does not draw in training mode: {why}; a forward must return the same then"
        )


def judged_prompts(teacher: Generator) -> tuple[Sequence[str], str]:
    """Prompts that a student is judged by, 64 at most, and what they are called: the golden ones,
    where there are any."""
    if teacher.golden:
        return teacher.golden[:JUDGED], "golden prompts"
    return (teacher.calibration or ("a picture",))[:JUDGED], "prompts"


def psnr_to(
    teacher: Generator, student: Generator, prompts: Sequence[str] = (), first: int | None = None
) -> float:
    """Mean PSNR, in dB, of the student's pictures to the teacher's.

    prompts: `judged_prompts` where none are given. first: the seed of the first of them, each
    other's is one more; that of the golden pictures where None.
    """
    first = golden_seed(0) if first is None else first
    found = []
    for i, prompt in enumerate(prompts or judged_prompts(teacher)[0]):
        feed = teacher.prepare(prompt, first + i)
        found.append(picture_psnr(student.pixels(feed), teacher.pixels(feed)))
    return float(np.mean(found))
