"""The float generator drawn anew: are golden pictures stale, and is float32 itself to be trusted?"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genedge.runtime.artifact import Golden, read_artifact, read_golden, write_golden
from genedge.runtime.bench import names_of
from genedge.runtime.errors import BadInput
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import Feed
from genedge.runtime.verify import Row

from .export import input_hashes
from .generator import Generator, golden_seed
from .models import resolve
from .pipeline import SampledGenerator, options_of
from .progress import Report

STALE_BELOW = 60.0  # dB; another build of torch moves float pictures by far less


def golden_of_prompts(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    progress: Report,
    images: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> Golden:
    """Pictures of these prompts as float32 and, where the modules can, as float64.

    images: of each prompt, what image inputs are fed; the generator's own where None. Raises BadInput for a prompt that can not be used.
    """
    own = images or [generator.images_of(p) for p in prompts]
    feeds = [generator.prepare(p, s, images=i) for p, s, i in zip(prompts, seeds, own, strict=True)]
    doubled = _in_double(generator)
    pictures, precise = [], []
    for i, feed in enumerate(feeds):
        pictures.append(generator.pixels(feed))
        if doubled is not None:
            try:
                precise.append(_double_pixels(doubled, feed))
            except RuntimeError:  # a module that makes float32 tensors of its own
                doubled = None
        progress("reference", i + 1, len(feeds))
    return Golden(
        tuple(prompts),
        tuple(seeds),
        np.stack(pictures),
        None,
        input_hashes(generator.signature, feeds),
        np.stack(precise) if doubled is not None else None,
        {n: np.stack([i[n] for i in own]) for n in generator.signature.images},
    )


def _in_double(generator: Generator) -> Generator | None:
    if isinstance(generator, SampledGenerator):  # its walk is float32 by definition
        return None
    try:
        modules = [copy.deepcopy(c.module).double() for c in generator.components]
    except (RuntimeError, TypeError):
        return None
    return generator.with_modules(modules, {})


@torch.no_grad()
def _double_pixels(generator: Generator, feed: Feed) -> np.ndarray:
    """uint8 (H, W, 4): computed in float64 from the same inputs."""
    named = {k: torch.from_numpy(v) for k, v in feed.inputs.items()}
    named = {k: v.double() if v.is_floating_point() else v for k, v in named.items()}
    for component in generator.components:
        results = component.module(*(named[n] for n in component.inputs))
        results = results if isinstance(results, tuple) else (results,)
        named |= dict(zip(component.outputs, results, strict=True))
    return to_pixels(named[generator.signature.output_name].numpy(), generator.signature)


def of_prompts(
    model: str, prompts: Sequence[str], work: Path, progress: Report, artifacts: Sequence[Path]
) -> dict[Path, Path]:
    """By artifact, a file in `work` of golden pictures of other prompts, each prompt with a fixed seed
    of its own; a pipeline is drawn with each artifact's own steps and guidance.

    Raises BadInput where model is none, or a prompt can not be used.
    """
    seeds = [golden_seed(i) for i in range(len(prompts))]
    files: dict[Path, Path] = {}
    by_walk: dict[str, Path] = {}
    for artifact in artifacts:
        walk = options_of(read_artifact(artifact))
        if repr(walk) not in by_walk:
            by_walk[repr(walk)] = work / f"golden-{len(by_walk)}.npz"
            found = golden_of_prompts(resolve(model, walk), prompts, seeds, progress)
            write_golden(by_walk[repr(walk)], found)
        files[artifact] = by_walk[repr(walk)]
    return files


def recomputed(
    directories: Sequence[Path], model: str, work: Path, progress: Report
) -> tuple[list[Row], dict[Path, Path]]:
    """Draws every artifact's golden prompts again.

    Returns one row per artifact, the lowest PSNR between stored and recomputed pictures, and for
    each a file in `work` of its golden pictures, with those of float64 beside them where the two
    are the same: those of another generator would say nothing about this one's float32. Raises BadInput
    where model is none, or an artifact has no golden pictures.
    """
    rows, files = [], {}
    generators: dict[str, Generator] = {}
    drawn: dict[Any, Golden] = {}
    for i, (directory, name) in enumerate(zip(directories, names_of(directories), strict=True)):
        artifact = read_artifact(directory)
        golden, walk = read_golden(artifact), options_of(artifact)
        fed = [golden.images_of(k) for k in range(len(golden.prompts))]
        if repr(walk) not in generators:
            generators[repr(walk)] = resolve(model, walk)
        generator = generators[repr(walk)]
        fixed = repr((golden.prompts, golden.seeds, walk))
        key = (fixed, *(p.tobytes() for p in golden.images.values()))
        if key not in drawn:
            drawn[key] = golden_of_prompts(generator, golden.prompts, golden.seeds, progress, fed)
        again = drawn[key]
        if again.pictures.shape != golden.pictures.shape:
            raise BadInput(
                f"{name} draws {golden.pictures.shape[1:3]}, {model} draws "
                f"{again.pictures.shape[1:3]}; name the model it was exported from"
            )
        pairs = zip(again.pictures, golden.pictures, strict=True)
        lowest = min(picture_psnr(a, b) for a, b in pairs)
        limit = f"≥ {STALE_BELOW:g} dB"
        fresh = lowest >= STALE_BELOW
        note = "" if fresh else _why_stale(model, generator.hash() == artifact.generator_hash)
        rows.append(Row(name, "reference_db", lowest, limit, fresh, note, bound=STALE_BELOW))
        files[directory] = work / f"golden-{i}.npz"
        write_golden(files[directory], replace(golden, precise=again.precise if fresh else None))
    return rows, files


def _why_stale(model: str, same: bool) -> str:
    """same: whether the generator has the weights that the artifact was made from."""
    if same:
        return f"{model} has the same weights and draws otherwise: the golden pictures were changed"
    return (
        f"{model} is another generator than this artifact was made from, so its golden pictures are "
        f"stale, or --reference names the wrong one: export it again, or name the right one"
    )
