"""train, evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genedge.runtime.artifact import check_out, read_artifact
from genedge.runtime.errors import BadInput

from .options import Debug, Model, Quiet, check_folder, need_torch

EMOJI = ("emoji", "emoji-teacher")
DRAWN = (*EMOJI, "emoji-chooser", "emoji-teacher-chooser")  # constructors of what draws emoji


def train(
    model: Annotated[str, typer.Argument(help="emoji-teacher or emoji")] = "emoji-teacher",
    out: Annotated[Path, typer.Option(help="Folder for the trained generator.")] = Path("trained"),
    work: Annotated[Path, typer.Option(help="Checkpoints; resumed from.")] = Path(".train"),
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    start: Annotated[
        str,
        typer.Option(
            help="emoji-teacher: an earlier one to go on from; empty: from nothing. "
            "emoji: a pruned emoji-teacher, which it needs."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train emoji-teacher, or emoji from it, on the art; resumes where it stopped."""
    need_torch()
    if model not in EMOJI:
        raise BadInput(f"model {model!r} is not trained from data; emoji-teacher and emoji are")
    from ..models import resolve
    from ..progress import reporting
    from ..zoo.emoji.train import train as train_teacher
    from ..zoo.emoji.train import train_student

    check_out(out, force)
    check_folder(work)
    begin = resolve(start) if start else None
    if begin is not None and begin.constructor not in DRAWN:
        raise BadInput(f"{start} does not draw emoji; training goes on only from one that does")
    with reporting(quiet) as progress:
        last: dict[str, str] = {}

        def report(what: str, done: int, total: int, row: Any) -> None:
            progress(what, done, total)
            text = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if "_" in k)
            if text and not quiet and last.get(what) != text:
                print(f"{what} {done}: {text}", file=sys.stderr, flush=True)
                last[what] = text

        run = train_student if model == "emoji" else train_teacher
        run(work, cache, out, report, force, begin)
    if not quiet:
        print(out)


def evaluate(
    model: Model = "emoji",
    artifact: Annotated[
        Path | None,
        typer.Option(help="What this artifact of it loses against the art, by prompt."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=8, help="With --artifact: training pairs.")] = 300,
    count: Annotated[int, typer.Option(min=8, help="Training pairs that are scored.")] = 1000,
    beside: Annotated[
        list[str] | None, typer.Option(help="With --sheets: another model; may be repeated.")
    ] = None,
    sheets: Annotated[
        Path | None,
        typer.Option(help="Folder for contact sheets of 64 prompts, and of eight seeds of eight."),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a generator of emoji against the real art: PSNR, retrieval, paraphrases, diversity.

    With --artifact: what the artifact loses against the art. With --sheets: pictures to look at,
    of the model, of those --beside it and of the artifact; no scores.
    """
    need_torch()
    from ..models import resolve
    from ..progress import reporting

    if beside and sheets is None:
        raise BadInput("--beside is for contact sheets; name a folder with --sheets")
    generators = [_emoji(name, resolve(name)) for name in (model, *(beside or ()))]
    if sheets is not None:
        for path in _sheets(generators, artifact, sheets):
            if not quiet:
                print(path)
        return
    if artifact is not None:
        read_artifact(artifact)  # before minutes of rendering
    from ..zoo.emoji.scores import scores_of
    from ..zoo.emoji.train import load_data
    from ..zoo.emoji.truth import lost_to_truth

    with reporting(quiet) as progress:

        def tell(what: str, done: int, total: int, row: Any) -> None:
            progress(what, done, total)

        art = load_data(cache, tell)
        if artifact is None:
            scores = scores_of(generators[0], art, cache, tell, count)
        else:
            scores = lost_to_truth(generators[0], artifact, art, prompts, tell)
    if json_out:
        print(json.dumps(scores, indent=1))
    elif not quiet:
        for name, value in scores.items():
            print(f"{name:32} {value:.4f}")


def _emoji(name: str, generator: Any) -> Any:
    if generator.constructor not in DRAWN:
        raise BadInput(f"{name} does not draw emoji; there is no real art to compare with")
    return generator


def _sheets(generators: list[Any], artifact: Path | None, folder: Path) -> list[Path]:
    from genedge.runtime.run import load

    from ..zoo.emoji.sheets import VAGUE, seeds, side_by_side

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a folder for the contact sheets")
    drawers = [(g.name, g) for g in generators]
    if artifact is not None:
        drawers.append((artifact.name, load(artifact)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "beside.png", folder / "seeds.png"]
    side_by_side(drawers, generators[0].golden[:64], paths[0])
    seeds(generators[0], VAGUE, paths[1])
    return paths
