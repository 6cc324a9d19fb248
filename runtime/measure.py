"""Draws what the float generator drew, with an artifact, and compares: plain numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import (
    Artifact,
    Golden,
    check_files,
    read_artifact,
    read_golden,
    read_golden_file,
    spread,
)
from .bootstrap import mean_bounds, sample_bounds
from .errors import BadInput, MissingProgram
from .inspect import Stored, inspect
from .metrics import flat_kept, max_error, picture_psnr, picture_ssim, signed_error
from .picture import suspicion, to_pixels
from .reasons import other_inputs, reasons
from .run import Feed, Pipeline, load

LATENCY_RUNS = 20
PIPELINE_PROMPTS, PIPELINE_RUNS = 4, 1  # one picture of a pipeline takes as long as hundreds here
NOISY_BELOW = 60.0  # dB of float32 to float64, below which float64 judges
# Share of numbers in tensors of two or more axes that an int8 artifact must store as int8.
INT8_SHARE = 0.5
LOW = 30.0  # dB of the mean, below which the stored weights are looked at for a reason
LARGE = 16  # numbers in a tensor that is looked at


def measure(
    directory: Path,
    prompts: int | None,
    threads: int,
    golden: Path | None = None,
    drawn: Path | None = None,
) -> dict[str, Any]:
    """Draws golden prompts with one artifact, in this process.

    prompts: how many, see `spread`; None for all, of a pipeline PIPELINE_PROMPTS. golden: a file of
    golden pictures to use instead of the artifact's own. drawn: a .npy file to write the pictures
    to, uint8 (N, H, W, 4). Raises BadInput where a file is missing, damaged or changed.
    """
    artifact = read_artifact(directory)
    check_files(artifact, golden=golden is None)
    whole = read_golden(artifact) if golden is None else read_golden_file(golden)
    sampled = artifact.sampler is not None
    if not whole.prompts:
        raise BadInput(f"{directory} has no golden prompts; export it again")
    pipeline = load(directory, threads, check=False)
    true, reference = trusted(spread(whole, wanted(artifact, prompts)))
    feeds = [
        pipeline.prepare(p, s, images=true.images_of(i))
        for i, (p, s) in enumerate(zip(true.prompts, true.seeds, strict=True))
    ]
    pictures, odd = _drawn(pipeline, feeds, true.pictures)
    if drawn is not None:
        np.save(drawn, np.stack(pictures), allow_pickle=False)
    found = _compared(pictures, true, feeds)
    found |= {
        "golden": len(whole.prompts),
        "intervals": _intervals(pictures, true) if len(feeds) < len(whole.prompts) else {},
        "suspicious": odd,
        "inputs": other_inputs([f.hashes for f in feeds], true.inputs),
        "bytes": artifact.bytes,
        "latency_ms": _latency(pipeline.outputs, feeds[0].inputs, sampled),
        "threads": threads,
        "float_layers": len(artifact.about.get("float_layers") or ()),
    }
    known = not found["inputs"] and true.inputs is not None
    found["reasons"] = reasons(pictures, true, found["psnrs"], None if known else pipeline)
    lost = found["psnr"] < LOW
    stored: dict[str, list[Stored]] = {}
    try:
        stored = _stored(artifact) if artifact.precision == "int8" or lost else {}
    except MissingProgram as missing:
        found["unread"] = str(missing)
    found["reasons"] += _flat([t for own in stored.values() for t in own]) if lost else []
    return found | reference | _int8_share(artifact, stored)


def wanted(artifact: Artifact, prompts: int | None) -> int | None:
    """How many golden prompts to draw; None for all."""
    return prompts or (PIPELINE_PROMPTS if artifact.sampler is not None else None)


def trusted(golden: Golden) -> tuple[Golden, dict[str, float]]:
    """Golden pictures to judge by: those of float64 where float32 is far from them.

    Also how far it is, in dB, and what the lowest was judged by; empty where float64 is not there.
    """
    if golden.precise is None:
        return golden, {}
    pairs = zip(golden.pictures, golden.precise, strict=True)
    lowest = min(picture_psnr(a, b) for a, b in pairs)
    noisy = lowest < NOISY_BELOW
    chosen = replace(golden, pictures=golden.precise) if noisy else golden
    return chosen, {"reference_to_fp64": lowest, "reference_noisy_below": NOISY_BELOW}


def _drawn(
    pipeline: Pipeline, feeds: Sequence[Feed], true: np.ndarray
) -> tuple[list[np.ndarray], dict[str, str]]:
    """Pictures, and prompts whose picture is none where the reference's is one, with the reason."""
    pictures, odd = [], {}
    for feed, reference in zip(feeds, true, strict=True):
        values = pipeline.outputs(feed.inputs)
        pixels = to_pixels(values, pipeline.artifact.signature)
        bad = int((~np.isfinite(values)).sum())
        why = f"{bad:,} of {values.size:,} numbers are not finite" if bad else ""
        if not why and not suspicion(reference):
            why = suspicion(pixels)
        if why:
            odd[f"{feed.prompt!r}"] = why
        pictures.append(pixels)
    return pictures, odd


def _compared(drawn: Sequence[np.ndarray], golden: Golden, feeds: Sequence[Feed]) -> dict[str, Any]:
    true = golden.pictures
    pairs = list(zip(drawn, true, strict=True))
    psnrs = [picture_psnr(a, b) for a, b in pairs]
    ssims = [picture_ssim(a, b) for a, b in pairs]
    kept, flat = np.sum([flat_kept(a, b) for a, b in pairs], axis=0)
    found: dict[str, Any] = {
        "prompts": len(pairs),
        "psnr": float(np.mean(psnrs)),
        "psnr_p1": float(np.percentile(psnrs, 1)),
        "psnr_worst": float(np.min(psnrs)),
        "worst_prompt": feeds[int(np.argmin(psnrs))].prompt,
        "ssim": float(np.mean(ssims)),
        "ssim_worst": float(np.min(ssims)),
        "max_error": max(max_error(a, b) for a, b in pairs),
        "flat": float(kept / flat) if flat else 1.0,
        "signed": [float(v) for v in np.mean([signed_error(a, b) for a, b in pairs], axis=0)],
        "psnrs": psnrs,
        "ssims": ssims,
    }
    if golden.simulated is not None:
        to_sim = [picture_psnr(a, b) for a, b in zip(drawn, golden.simulated, strict=True)]
        to_float = [picture_psnr(a, b) for a, b in zip(golden.simulated, true, strict=True)]
        found |= {
            "to_simulation": float(np.mean(to_sim)),
            "simulation_to_float": float(np.mean(to_float)),
            "lead": float(np.mean(to_sim) - np.mean(to_float)),
        }
    return found


def _intervals(drawn: Sequence[np.ndarray], golden: Golden) -> dict[str, tuple[float, float]]:
    """By metric: between which its value over all golden prompts lies, as this sample tells."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(values.mean(1))

    def share(values: np.ndarray) -> np.ndarray:
        kept, flat = np.moveaxis(values.sum(1), -1, 0)
        return np.where(flat > 0, kept / np.maximum(flat, 1), 1.0)

    pairs = list(zip(drawn, golden.pictures, strict=True))
    psnrs = np.array([picture_psnr(a, b) for a, b in pairs])
    found = {
        "psnr_db": sample_bounds(psnrs, mean),
        "psnr_p1_db": sample_bounds(psnrs, lambda v: np.percentile(v, 1, axis=1)),
        "ssim": sample_bounds(np.array([picture_ssim(a, b) for a, b in pairs]), mean),
        "flat_kept": sample_bounds(np.array([flat_kept(a, b) for a, b in pairs]), share),
    }
    # Signed errors cancel: each channel's own interval first, then the channel that is furthest off.
    channels = np.array([signed_error(a, b) for a, b in pairs]).T
    bounds = [mean_bounds(values) for values in channels]
    least = max(0.0 if low <= 0 <= high else min(abs(low), abs(high)) for low, high in bounds)
    found["signed_error"] = least, max(max(abs(low), abs(high)) for low, high in bounds)
    if golden.simulated is not None:
        to_sim = [picture_psnr(a, b) for a, b in zip(drawn, golden.simulated, strict=True)]
        to_float = [
            picture_psnr(a, b) for a, b in zip(golden.simulated, golden.pictures, strict=True)
        ]
        found["lead_db"] = sample_bounds(np.array(to_sim) - to_float, mean)
    return found


def _latency(
    outputs: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    inputs: Mapping[str, np.ndarray],
    sampled: bool = False,
) -> float:
    """Median of LATENCY_RUNS runs, in ms, after three to warm up; of a pipeline PIPELINE_RUNS, warm
    from the pictures before."""
    for _ in range(0 if sampled else 3):
        outputs(inputs)
    times = []
    for _ in range(PIPELINE_RUNS if sampled else LATENCY_RUNS):
        began = time.perf_counter()
        outputs(inputs)
        times.append(time.perf_counter() - began)
    return float(np.median(times) * 1000)


def _stored(artifact: Artifact) -> dict[str, list[Stored]]:
    """By component, tensors of two or more axes in its files. Raises MissingProgram where the target's
    reader is not installed."""
    return {one.component: [t for t in one.stored if len(t.shape) > 1] for one in inspect(artifact)}


def _int8_share(artifact: Artifact, stored: Mapping[str, Sequence[Stored]]) -> dict[str, float]:
    """Of an int8 artifact: the share of stored numbers that are int8, and the least that may be.

    Components that its plan has in float are left out, where there are others.
    """
    plan = artifact.about.get("plan") or {}
    planned = {n: t for n, t in stored.items() if plan.get(n) != "float"} or stored
    tensors = [t for own in planned.values() for t in own]
    sizes = [(int(np.prod(t.shape)), t.dtype in ("int8", "uint8")) for t in tensors]
    whole = sum(n for n, _ in sizes)
    if artifact.precision != "int8" or not whole:
        return {}
    share = sum(n for n, small in sizes if small) / whole
    floor = 1e-9 if artifact.about.get("float_layers") else INT8_SHARE
    return {"stored_int8": share, "stored_int8_floor": floor}


def _flat(stored: Sequence[Stored]) -> list[str]:
    """Weights of one value throughout, as a layer that was set to zero has."""
    return [
        f"{t.name} ({t.dtype} {list(t.shape)}) is stored as one value throughout"
        for t in stored
        if t.one_value and np.prod(t.shape) >= LARGE
    ]
