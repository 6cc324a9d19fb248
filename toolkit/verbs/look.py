"""inspect."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Debug, Quiet, artifact_path


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
