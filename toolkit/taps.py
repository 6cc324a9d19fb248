"""Every layer's output, under one set of names, in float, in the simulation and on a target.

A layer is named after the float module: `image.blocks.1.0.conv2` is the layer of that module, and
`image.blocks.1.0:mul_3` a sum or product that the module's forward computes itself. A delegate
hides its insides, so a target is looked into through a twin: the same int8 graph with the output of
each layer as one more output, lowered by the same recipe.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.graph import CodeGen

from genedge.recipes import Names, Options
from genedge.runtime import artifact as artifacts
from genedge.runtime.silence import silenced

from .generator import Generator
from .programs import example_inputs, export_module
from .progress import Report
from .quantize import Quantized
from .quantizer import ACTIVATIONS, LAYERS, layer_name
from .replace import float_graph

_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_BATCH_NORM = torch.ops.aten.batch_norm.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


@dataclass(frozen=True)
class Tap:
    """One layer: its name, component, the node that ends it, and where int8 reads it back.

    node: name in the float graph, and in the int8 graph but for a batch norm that is folded. read: the node of the int8 graph
    whose value is the layer's output after rounding; `node` itself where the layer stays float.
    step: the width of the rounding grid, 0 where there is none.
    """

    name: str
    component: str
    node: str
    read: str
    step: float


@dataclass(frozen=True)
class Graphs:
    """Float and int8 graphs by component, and the taps in the order in which they run."""

    generator: Generator
    floats: Mapping[str, GraphModule]
    small: Mapping[str, GraphModule]
    taps: tuple[Tap, ...]


def full_name(component: str, name: str) -> str:
    """ "image.exit" of "exit", "image:add" of ":add", a sum of the component's own forward."""
    return component + name if name.startswith(":") or not name else f"{component}.{name}"


def layer_names(generator: Generator) -> set[str]:
    """Every layer, also sums and products, as blame and --float-layers name them."""
    return {
        full_name(c.name, layer_name(node))
        for c in generator.components
        for node in float_graph(c.module, example_inputs(generator, c)).graph.nodes
        if node.target in LAYERS
    }


def _rounded(node: Node) -> tuple[str, float]:
    for user in node.users:
        if user.target is _QUANTIZE:
            back = next(u for u in user.users if u.target is _DEQUANTIZE)
            return back.name, float(user.args[1])  # type: ignore[arg-type]
    return node.name, 0.0


def _last(node: Node, small: Mapping[str, Node]) -> Node:
    """The node of the float graph that ends this layer: behind a batch norm that int8 folds into it, and
    behind its activation."""

    def only(n: Node) -> Node | None:
        return next(iter(n.users)) if len(n.users) == 1 else None

    norm = only(node)
    if norm is not None and norm.target is _BATCH_NORM and norm.name not in small:
        node = norm
    after = only(node)
    return after if after is not None and after.target in ACTIVATIONS else node


def graphs_of(generator: Generator, quantized: Quantized) -> Graphs:
    """Pairs the float graphs with the int8 graphs that were made of them."""
    floats, taps = {}, []
    for component in generator.components:
        graph = floats[component.name] = quantized.floats[component.name]
        small = {n.name: n for n in quantized.graphs[component.name].graph.nodes}
        for node in graph.graph.nodes:
            if node.target not in LAYERS:
                continue
            last = _last(node, small)
            there = small.get(last.name) or small.get(
                node.name
            )  # the norm's work is the layer's there
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.dtype == torch.float32 and there is not None:
                read, step = _rounded(there)
                name = full_name(component.name, layer_name(node))
                taps.append(Tap(name, component.name, last.name, read, step))
    return Graphs(generator, floats, quantized.graphs, tuple(taps))


class _Walk(Interpreter):  # type: ignore[misc]
    """Runs a graph; some nodes take given values, some get something added, some are kept."""

    def __init__(
        self,
        graph: GraphModule,
        given: Mapping[str, Tensor],
        added: Mapping[str, Tensor],
        keep: set[str],
    ) -> None:
        super().__init__(graph)
        self.given, self.added, self.keep = given, added, keep
        self.seen: dict[str, Tensor] = {}
        self.computed: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.keep:
            self.computed[n.name] = value
        if n.name in self.given:
            value = self.given[n.name]
        if n.name in self.added:
            value = value + self.added[n.name]
        if n.name in self.keep:
            self.seen[n.name] = value
        return value


@torch.no_grad()
def walk(
    graphs: Graphs,
    inputs: Mapping[str, Tensor],
    given: Mapping[str, Tensor] | None = None,
    added: Mapping[str, Tensor] | None = None,
    small: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The generator's output, and what each layer computed before `given` took its place.

    inputs: the signature's inputs. given, added: by layer, values to go on with instead of, or on
    top of, the layer's own. small: through the int8 graphs instead of the float ones.
    """
    named, computed = dict(inputs), dict[str, Tensor]()
    for component in graphs.generator.components:
        taps = [t for t in graphs.taps if t.component == component.name]
        place = {t.name: t.read if small else t.node for t in taps}
        walker = _Walk(
            (graphs.small if small else graphs.floats)[component.name],
            {place[k]: v for k, v in (given or {}).items() if k in place},
            {place[k]: v for k, v in (added or {}).items() if k in place},
            set(place.values()),
        )
        results = walker.run(*(named[n] for n in component.inputs))
        results = results if isinstance(results, tuple) else (results,)
        named |= dict(zip(component.outputs, results, strict=True))
        computed |= {t.name: walker.computed[place[t.name]] for t in taps}
    return named[graphs.generator.signature.output_name], computed


def output_nodes(graph: GraphModule) -> list[str]:
    """Names of the nodes that the graph returns, in order."""
    output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    nodes = output if isinstance(output, (tuple, list)) else (output,)
    return [n.name for n in nodes]


def returning(graph: GraphModule, names: list[str]) -> GraphModule:
    """A copy of the graph that returns the values of these nodes; what they do not need is gone."""
    twin = copy.deepcopy(graph)
    nodes = {n.name: n for n in twin.graph.nodes}
    nodes["output"].args = (tuple(nodes[n] for n in names),)
    twin.graph.set_codegen(CodeGen())  # the exported one counts its outputs
    twin.graph.eliminate_dead_code()
    twin.recompile()
    return twin


def load_graph(
    graph: GraphModule,
    example: tuple[Tensor, ...],
    target: str,
    folder: Path,
    name: str,
    names: Names,
) -> Any:
    """Lowers an int8 graph into `folder` and loads it with the target's own runner."""
    with silenced():
        recipe = importlib.import_module(f"genedge.recipes.{target}").export
        files = recipe(
            {name: export_module(graph, example)}, folder, Options("int8", {name: names})
        )
    loader = importlib.import_module(f"genedge.runtime.run_{target}")
    stored = tuple(artifacts.stored(f) for f in files[name])
    return loader.load(folder, artifacts.Component(name, names.inputs, names.outputs, stored), 1)


def run_twin(
    graphs: Graphs,
    target: str,
    feeds: list[dict[str, Tensor]],
    report: Report = lambda what, done, total: None,
) -> list[dict[str, Tensor]]:
    """Each layer's output on `target`, the picture as "", and "=name" what a component writes.

    XNNPACK's lowering fails on several outputs of one graph, so its twin is a row of graphs, each
    cut off behind one layer; the other targets get one graph that returns them all.
    """
    found: list[dict[str, Tensor]] = [{} for _ in feeds]
    tensors = [{k: v.numpy() for k, v in feed.items()} for feed in feeds]
    with tempfile.TemporaryDirectory(prefix="genedge-twin-") as name:
        folder = Path(name)
        for component in graphs.generator.components:
            graph = graphs.small[component.name]
            example = example_inputs(graphs.generator, component)
            own = dict(zip(output_nodes(graph), component.outputs, strict=True))
            taps = [t for t in graphs.taps if t.component == component.name]
            reads = list(dict.fromkeys(t.read for t in taps if t.read not in own))
            pieces = (
                [list(own), *([r] for r in reads)] if target == "executorch" else [[*own, *reads]]
            )
            seen: list[dict[str, Any]] = [{} for _ in feeds]
            for i, piece in enumerate(pieces):
                report(f"twin {target} {component.name}", i, len(pieces))
                outputs = tuple(own.get(r, f"{r}.tap") for r in piece)
                cut = returning(graph, piece)
                names = Names(component.inputs, outputs)
                run = load_graph(cut, example, target, folder, f"{component.name}{i}", names)
                for row, results in zip(tensors, seen, strict=True):
                    results |= run({n: row[n] for n in component.inputs})
            for row, results, values in zip(tensors, seen, found, strict=True):
                row |= {n: results[n] for n in component.outputs}
                values |= {f"={n}": torch.from_numpy(results[n]) for n in component.outputs}
                for tap in taps:
                    value = results[own.get(tap.read, f"{tap.read}.tap")]
                    values[tap.name] = torch.from_numpy(np.ascontiguousarray(value))
    for row, values in zip(tensors, found, strict=True):
        values[""] = torch.from_numpy(row[graphs.generator.signature.output_name])
    return found
