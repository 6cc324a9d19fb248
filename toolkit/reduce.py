"""The smallest piece of an int8 graph that still leaves the simulation on a target.

Written with its inputs and both results, ready for a report to the runtime's makers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from genedge.recipes import Names
from genedge.runtime.artifact import writing

from .blame import FAULT_STEPS
from .taps import Graphs, Tap, load_graph, run_twin

LARGEST = 3  # layers


@dataclass(frozen=True)
class Piece:
    """Layers of a piece, and by how many steps of the last one's grid the target is off."""

    layers: tuple[str, ...]
    off: float
    directory: Path


def cut(graph: GraphModule, end: str, starts: set[str]) -> tuple[GraphModule, list[str]]:
    """The part of the graph that computes node `end` from the nodes `starts`; inputs in order.

    A start's value is fed as it was before its rounding: the piece rounds it again, to itself.
    """
    nodes = {n.name: n for n in graph.graph.nodes}
    needed: set[Node] = set()
    queue = [nodes[end]]
    while queue:
        node = queue.pop()
        if node not in needed:
            needed.add(node)
            queue += [] if node.name in starts else node.all_input_nodes
    piece = Graph()
    copies: dict[Node, Node] = {}
    inputs: list[str] = []
    for node in graph.graph.nodes:
        if node not in needed:
            continue
        if node.name in starts or node.op == "placeholder":
            copies[node] = piece.placeholder(f"x{len(inputs)}")
            inputs.append(node.name)
        else:
            copies[node] = piece.node_copy(node, lambda n: copies[n])
    piece.output((copies[nodes[end]],))
    return GraphModule(graph, piece), inputs


def reduce_fault(
    graphs: Graphs, target: str, layer: str, feed: dict[str, Tensor], out: Path, force: bool = False
) -> Piece | None:
    """Cuts pieces of one to three layers that end at `layer`; saves the first that is still off.

    Inputs are what the target itself gave to the piece. None where no piece of this size is off:
    the fault needs its surroundings. Raises what genedge.runtime.artifact.writing raises.
    """
    tap = next(t for t in graphs.taps if t.name == layer)
    graph = graphs.small[tap.component]
    given = run_twin(graphs, target, [feed])[0]
    before = [t for t in graphs.taps if t.component == tap.component]
    before = before[: before.index(tap)]
    for count in range(1, LARGEST + 1):
        inner = before[len(before) - count + 1 :] if count > 1 else []
        found = _try(graphs, graph, target, tap, inner, given, feed, out, force)
        if found is not None:
            return found
    return None


def _before_rounding(graph: GraphModule, tap: Tap) -> str:
    """The node whose value a piece is fed: what the layer gives before it is rounded."""
    return tap.node if tap.node in {n.name for n in graph.graph.nodes} else tap.read


def _try(
    graphs: Graphs,
    graph: GraphModule,
    target: str,
    tap: Tap,
    inner: list[Tap],
    given: dict[str, Tensor],
    feed: dict[str, Tensor],
    out: Path,
    force: bool,
) -> Piece | None:
    others = [t for t in graphs.taps if t.component == tap.component and t not in (tap, *inner)]
    starts = {_before_rounding(graph, t): t for t in others}
    piece, inputs = cut(graph, tap.read, set(starts))
    values = []
    for name in inputs:
        values.append(
            given[starts[name].name] if name in starts else _input(graphs, tap, name, feed, given)
        )
    names = Names(tuple(f"x{i}" for i in range(len(inputs))), ("y",))
    with torch.no_grad():
        wanted = piece(*values)[0].numpy()
    arrays = {n: np.ascontiguousarray(v.numpy()) for n, v in zip(names.inputs, values, strict=True)}
    with tempfile.TemporaryDirectory(prefix="genedge-piece-") as trial:
        run = load_graph(piece, tuple(values), target, Path(trial), "piece", names)
        returned = run(arrays)["y"]
        off = float(np.abs(returned - wanted).max() / (tap.step or 1.0))
        if off <= FAULT_STEPS:
            return None
        layers = (*(t.name for t in inner), tap.name)
        row = {"target": target, "layers": list(layers), "step": tap.step, "off_steps": off}
        with writing(out, force) as folder:
            for file in Path(trial).iterdir():
                shutil.copy(file, folder / file.name)
            np.savez_compressed(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
            np.savez_compressed(folder / "outputs.npz", simulation=wanted, returned=returned)
            # By this name a later --force knows the folder as genedge's own.
            (folder / "generator.json").write_text(json.dumps(row, indent=1) + "\n")
    return Piece(layers, off, out)


def _input(
    graphs: Graphs, tap: Tap, node: str, feed: dict[str, Tensor], given: dict[str, Tensor]
) -> Tensor:
    """The value of a component's own input, by its place."""
    component = next(c for c in graphs.generator.components if c.name == tap.component)
    graph = graphs.small[tap.component].graph
    places = [n.name for n in graph.nodes if n.op == "placeholder"]
    name = component.inputs[places.index(node)]
    return feed[name] if name in feed else given[f"={name}"]  # written by a component before
