"""train, evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genedge.runtime.errors import BadInput

from .options import Debug, Model, Quiet, need_torch


def train(
    model: Annotated[str, typer.Argument(help="emoji")] = "emoji",
    out: Annotated[Path, typer.Option(help="Folder for the trained generator.")] = Path("trained"),
    work: Annotated[Path, typer.Option(help="Checkpoints; resumed from.")] = Path(".train"),
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    start: Annotated[
        str, typer.Option(help="A trained emoji to go on from; empty: from nothing.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a bundled generator from its data; resumes where it stopped."""
    need_torch()
    _only_emoji(model)
    from ..generator import resolve
    from ..progress import reporting
    from ..zoo.emoji.train import train as run

    if out.exists() and not force:
        raise BadInput(f"{out} exists already; use --force to replace it, or another --out")
    begin = resolve(start) if start else None
    if begin is not None and begin.constructor != "emoji":
        raise BadInput(f"{start} does not draw emoji; training goes on only from one that does")
    with reporting(quiet) as progress:
        last: dict[str, str] = {}

        def report(what: str, done: int, total: int, row: Any) -> None:
            progress(what, done, total)
            text = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if "_" in k)
            if text and not quiet and last.get(what) != text:
                print(f"{what} {done}: {text}", file=sys.stderr, flush=True)
                last[what] = text

        run(work, cache, out, report, force, begin)
    if not quiet:
        print(out)


def _only_emoji(model: str) -> None:
    if model != "emoji":
        raise BadInput(f"model {model!r} is unknown here; the one with training data is emoji")


def evaluate(
    model: Model = "emoji",
    artifact: Annotated[
        Path | None,
        typer.Option(help="What this artifact of it loses against the art, by prompt."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=8, help="With --artifact: training pairs.")] = 300,
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a generator of emoji against the real art: PSNR, retrieval, sharpness."""
    need_torch()
    from ..generator import resolve
    from ..progress import reporting
    from ..zoo.emoji.train import evaluate as run
    from ..zoo.emoji.train import load_data
    from ..zoo.emoji.truth import lost_to_truth

    generator = resolve(model)
    if generator.constructor != "emoji":
        raise BadInput(f"{model} does not draw emoji; there is no real art to compare with")
    with reporting(quiet) as progress:

        def tell(what: str, done: int, total: int, row: Any) -> None:
            progress(what, done, total)

        art = load_data(cache, tell)
        if artifact is None:
            scores = run(generator, art)
        else:
            scores = lost_to_truth(generator, artifact, art, prompts, tell)
    if json_out:
        print(json.dumps(scores, indent=1))
    elif not quiet:
        for name, value in scores.items():
            print(f"{name:20} {value:.4f}")
