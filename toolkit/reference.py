"""Are an artifact's golden pictures still what the generator draws?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genedge.runtime.artifact import read_artifact, read_golden
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.verify import Row

from .generator import resolve
from .progress import Report

STALE_BELOW = 60.0  # dB; another build of torch moves float pictures by far less


def stale_rows(directories: list[Path], model: str, progress: Report) -> list[Row]:
    """One row per artifact: the lowest PSNR between stored and recomputed golden pictures.

    Raises BadInput where model is none, or an artifact has no golden pictures.
    """
    generator, rows = resolve(model), []
    for directory in directories:
        artifact = read_artifact(directory)
        golden, lowest = read_golden(artifact), 100.0
        for i, (prompt, seed) in enumerate(zip(golden.prompts, golden.seeds, strict=True)):
            drawn = generator.pixels(generator.prepare(prompt, seed))
            lowest = min(lowest, picture_psnr(drawn, np.asarray(golden.pictures[i])))
            progress(f"reference {directory.name}", i + 1, len(golden.prompts))
        limit = f"≥ {STALE_BELOW:g} dB"
        rows.append(Row(directory.name, "reference_db", lowest, limit, lowest >= STALE_BELOW))
    return rows
