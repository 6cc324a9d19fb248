"""bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genedge.runtime.errors import BadInput

from .options import Debug, Quiet, artifact_path, check_writable, write_text


def bench(
    artifacts: Annotated[list[str], typer.Argument(help="Folders, or bundled names.")],
    baseline: Annotated[
        str, typer.Option(help="Name of the artifact that the others are divided by.")
    ] = "",
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, by commas; left out: 1 and every core.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=2, max=100_000, help="Turns of each artifact.")] = 50,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures of each turn.")] = 4,
    cold_starts: Annotated[
        int, typer.Option(min=0, max=1000, help="Processes started anew for each artifact.")
    ] = 5,
    seconds: Annotated[
        float, typer.Option(min=0, help="No further round after this long; 10 are always made.")
    ] = 120,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure latency, cold start, peak memory and pictures per second, artifacts in turn."""
    from rich.console import Console

    from genedge.runtime import bench as module
    from genedge.runtime import host

    from ..progress import reporting

    check_writable(json_file)
    counts = _counts(threads, host.cores())
    paths = [artifact_path(a) for a in artifacts]
    with reporting(quiet) as progress:
        found = module.bench(
            paths,
            baseline=baseline,
            threads=counts,
            rounds=rounds,
            runs=runs,
            cold_starts=cold_starts,
            seconds=seconds,
            report=progress,
        )
    if json_file is not None:
        write_text(json_file, module.to_json(found))
    if quiet:
        return
    console = Console()
    for table in module.to_tables(found):
        console.print(table)
    about = host.about()
    made = len(found.benched[0].timings[0].latency)
    print(
        f"{about['cpu']}, profile {about['profile']}, {about['cores']} core(s); "
        f"{made} rounds of {runs} picture(s) each, in turn"
    )


def _counts(text: str, cores: int) -> tuple[int, ...]:
    if not text:
        return (1, cores) if cores > 1 else (1,)
    try:
        counts = tuple(dict.fromkeys(int(t) for t in text.split(",")))
    except ValueError:
        counts = (0,)
    if not all(1 <= c <= 256 for c in counts):
        raise BadInput(f"--threads {text!r}: give whole numbers from 1 to 256, for example 1,2")
    return counts
