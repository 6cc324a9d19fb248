"""inspect, blame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Quiet, artifact_path, check_writable, need_torch, write_text


def inspect(
    artifact: Annotated[str, typer.Argument(help="Folder, or a bundled name.")] = "emoji",
    tensors: Annotated[int, typer.Option(min=0, help="Largest tensors to list.")] = 10,
    json_out: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every tensor.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what an artifact stores, and what its runtime runs in int8 and in float."""
    from rich.console import Console

    from genedge.runtime import inspect as inside
    from genedge.runtime.artifact import check_files, read_artifact

    opened = read_artifact(artifact_path(artifact))
    check_files(opened)
    found = inside.inspect(opened)
    if json_out:
        print(inside.to_json(opened, found))
        return
    if quiet:
        return
    console = Console()
    for one in found:
        for table in inside.to_tables([one], tensors):
            console.print(table)
        if opened.target == "executorch":
            print(f"{one.component}: {one.partitions} call(s) of the delegate")
        if opened.precision == "int8":
            names = "; ".join(", ".join(island) for island in one.islands) or "none"
            print(f"{one.component}: float islands between int8 operators: {names}")


def blame(
    artifact: Annotated[str, typer.Argument(help="Folder of an int8 artifact, or a bundled name.")],
    model: Annotated[str, typer.Option(help="MODEL that it was exported from.")] = "emoji",
    prompts: Annotated[int, typer.Option(min=1, help="Golden prompts to use.")] = 4,
    rows: Annotated[int, typer.Option(min=1, help="Worst layers to list.")] = 12,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG file for a bar chart.")] = None,
    reduce: Annotated[
        Path | None, typer.Option(help="Folder for the smallest piece that leaves the simulation.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --reduce.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Name the layers that lose the accuracy, in the simulation and in an artifact."""
    need_torch()
    from rich.console import Console

    from genedge.runtime.artifact import check_files, check_out, read_artifact

    from .. import blame as blaming
    from ..models import resolve
    from ..progress import reporting
    from ..reduce import reduce_fault

    if chart is not None:
        _need_matplotlib()
    check_writable(json_file, chart)
    if reduce is not None:
        check_out(reduce, force)
    opened = read_artifact(artifact_path(artifact))
    check_files(opened)
    generator = resolve(model)
    feeds = blaming.feeds_of(generator, prompts)
    with reporting(quiet) as progress:
        graphs = blaming.rebuilt(opened, generator, progress)
        found = [
            blaming.measure_losses(graphs, feeds, where, progress)
            for where in (blaming.SIMULATION, opened.target)
        ]
        near = blaming.twin_to_artifact(graphs, opened, feeds, progress)
    about = {"artifact": str(opened.directory), "twin_to_artifact": near, "prompts": len(feeds)}
    if json_file is not None:
        write_text(json_file, blaming.to_json(found, about))
    if chart is not None:
        blaming.draw_chart(found, chart)
    piece = None
    first = found[1].first_off
    if reduce is not None and first is not None:
        piece = reduce_fault(graphs, opened.target, first, feeds[0], reduce, force)
    if quiet:
        return
    for one in found:
        Console().print(blaming.to_table(one, rows))
        print(f"{one.where}: {one.picture:.1f} dB to float; worst layer {one.worst.layer}")
    print(f"the twin's pictures are {near:.1f} dB from the artifact's (100: the same)")
    print(f"first layer that leaves the simulation: {first or 'none'}")
    if piece is not None:
        names = ", ".join(piece.layers)
        print(f"{piece.directory}: {names}, {piece.off:.1f} steps of the grid off")
    elif reduce is not None:
        print("no piece of at most three layers leaves the simulation; nothing was written")


def _need_matplotlib() -> None:
    import importlib.util

    from genedge.runtime.errors import MissingProgram

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingProgram("a chart needs matplotlib; run: pip install 'genedge[report]'")
