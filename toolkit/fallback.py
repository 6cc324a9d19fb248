"""Which few layers to keep in float, so that the int8 picture comes as near as was asked.

Layers are tried in the calibrated graph by switching their grids off, ranked by what that does for
the picture for each byte that float costs, and taken until the simulation holds the limit. A tensor
stays on its grid while an int8 layer writes or reads it, so a layer is tried alone and together with
the layers that read it: an outlier between two layers needs both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from genedge.runtime.errors import LimitMissed
from genedge.runtime.metrics import picture_psnr, picture_ssim
from genedge.runtime.picture import to_pixels

from .generator import Generator, golden_seed
from .grids import Grid, with_grids
from .quantize import Quantized, calibrate, quantize, simulated
from .quantizer import ACTIVATIONS, LAYERS, layer_name
from .rewriting import tensor_of
from .taps import full_name

RANK_PROMPTS = 8
MOST = 60  # layers; a generator that needs more is better left float
ROUNDS = 6  # each calibrates anew, as grids change where a neighbour is float
_FIXED_COST = 2000  # bytes: a sum in float costs none, and still breaks a chain of int8
_MARGIN = 0.25  # dB, SSIM/100: targets round a little differently from the simulation


@dataclass(frozen=True)
class Choice:
    """Layers kept float, the bytes of their weights in float32, and what the simulation reaches."""

    layers: tuple[str, ...]
    bytes: int
    psnr: float
    ssim: float
    quantized: Quantized


@dataclass
class _Graph:
    """A calibrated graph with grids, and which layers stand at each grid."""

    graph: GraphModule
    around: dict[str, set[str]]
    weights: dict[str, int]
    readers: dict[str, set[str]]
    grids: dict[str, Grid]


def _layer_of(node: Node, component: str) -> str | None:
    """The layer that a node belongs to: an activation to what it ends; None for moves and inputs."""
    if node.target in ACTIVATIONS and isinstance(node.args[0], Node):
        node = node.args[0]
    return full_name(component, layer_name(node)) if node.target in LAYERS else None


def _ends(node: Node, forward: bool, component: str) -> set[str]:
    """Layers reached from a node through grids and moves, readers or writers."""
    found: set[str] = set()
    for other in node.users if forward else node.all_input_nodes:
        name = _layer_of(other, component)
        if name is not None:
            found.add(name)
        elif other.op in ("call_module", "call_function"):
            found |= _ends(other, forward, component)
    return found


def _prepared(prepared: GraphModule, component: str) -> _Graph:
    grids = with_grids(prepared, Grid)
    by_grid = {id(g): name for name, g in grids.items()}
    around: dict[str, set[str]] = {name: set() for name in grids}
    weights: dict[str, int] = {}
    readers: dict[str, set[str]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), Grid):
            grid = by_grid[id(prepared.get_submodule(str(node.target)))]
            source = node.args[0]
            around[grid] |= _ends(node, True, component)
            writer = _layer_of(source, component)
            around[grid] |= {writer} if writer else _ends(node, False, component)
            if source.op == "get_attr":
                size = tensor_of(prepared, source).numel() * 4
                for layer in _ends(node, True, component):
                    weights[layer] = weights.get(layer, 0) + size
        elif (name := _layer_of(node, component)) is not None:
            readers.setdefault(name, set()).update(_ends(node, True, component) - {name})
    return _Graph(prepared, around, weights, readers, grids)


def keep_float(
    generator: Generator,
    *,
    psnr: float | None = None,
    ssim: float | None = None,
    cpu: str = "portable",
    keep: Sequence[str] = (),
    calibration: int = 128,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Choice:
    """Quantizes with as few layers in float as the limits need; `keep` stays float anyway.

    psnr: dB, mean over golden prompts, of the simulation; ssim: mean. Raises LimitMissed where even
    MOST layers do not reach them: the message says how far they came.
    """
    kept = tuple(keep)
    quantized = quantize(generator, cpu=cpu, keep=kept, calibration=calibration, report=report)
    score = _score(generator, simulated(generator, quantized))
    if _holds(score, psnr, ssim):
        return Choice(kept, 0, *score, quantized)
    ways = {name: (way,) for name, way in quantized.ranges.items()}
    # Weights that were rounded to make up for each other are no float ones with their grid off.
    prepared, _ = calibrate(generator, ways, cpu, kept, calibration, report, without=["rounding"])
    graphs = {name: _prepared(graph, name) for (name, _), graph in prepared.items()}
    weights = {k: v for g in graphs.values() for k, v in g.weights.items()}
    feeds = [
        generator.tensors(generator.prepare(p, seed=i))
        for i, p in enumerate(generator.calibration[:RANK_PROMPTS] or ("",))
    ]
    search = _Search(generator, graphs, weights, feeds, report)
    reached = score
    for _ in range(ROUNDS):
        if not search.gain(_missing(reached, psnr, ssim)):
            break
        kept = (*keep, *sorted(search.chosen))
        quantized = quantize(generator, cpu=cpu, keep=kept, calibration=calibration, report=report)
        reached = _score(generator, simulated(generator, quantized))
        if _holds(reached, psnr, ssim):
            cost = sum(weights.get(n, 0) for n in search.chosen)
            return Choice(kept, cost, *reached, quantized)
    raise LimitMissed(
        f"the limit can not be met: with {len(search.chosen)} layers in float PSNR is "
        f"{reached[0]:.1f} dB and SSIM {reached[1]:.3f}; use --precision fp16 or fp32, or a lower "
        f"limit (nothing was written)"
    )


def _missing(score: tuple[float, float], psnr: float | None, ssim: float | None) -> float:
    """dB that the picture's error has to fall by; 1 − SSIM is taken to fall as the error does."""
    decibels = 0.0 if psnr is None else psnr + _MARGIN - score[0]
    if ssim is not None:
        wanted = max(1 - min(1.0, ssim + _MARGIN / 100), 1e-6)
        decibels = max(decibels, 10 * math.log10(max(1 - score[1], 1e-9) / wanted))
    return max(decibels, 0.1)


class _Search:
    """Greedy choice of units by gain for each byte, with gains looked at again only when needed.

    A unit's gain seldom grows when others are float already; so the gains of earlier rounds are
    kept as bounds, and only the unit that leads by them is tried anew until one leads by a fresh
    gain (Minoux, "Accelerated greedy algorithms", 1978): a few trials for each choice, not all.
    """

    def __init__(
        self,
        generator: Generator,
        graphs: dict[str, _Graph],
        weights: dict[str, int],
        feeds: list[dict[str, Tensor]],
        report: Callable[[str, int, int], None],
    ) -> None:
        self.generator, self.graphs, self.weights, self.feeds = generator, graphs, weights, feeds
        self.report = report
        self.chosen: set[str] = set()
        self.error = _error(generator, graphs, self.chosen, feeds)
        self.units = _units(graphs)
        self.bounds: list[float] = []

    def _worth(self, unit: set[str]) -> float:
        gain = self.error - _error(self.generator, self.graphs, self.chosen | unit, self.feeds)
        new = unit - self.chosen
        return gain / (_FIXED_COST + sum(self.weights.get(name, 0) for name in new))

    def gain(self, decibels: float) -> bool:
        """Chooses until the error has fallen so far, or MOST layers are float; False: none is left."""
        if not self.bounds:
            for i, unit in enumerate(self.units):
                self.bounds.append(self._worth(unit))
                self.report("layers to keep float, ranked", i + 1, len(self.units))
        goal, before = self.error - decibels, len(self.chosen)
        wanted = max(1, math.ceil(decibels))
        while self.error > goal and len(self.chosen) < MOST:
            left = [i for i, unit in enumerate(self.units) if not unit <= self.chosen]
            if not left:
                break
            fresh: set[int] = set()
            while (best := max(left, key=lambda i: self.bounds[i])) not in fresh:
                self.bounds[best] = self._worth(self.units[best])
                fresh.add(best)
            self.chosen |= self.units[best]
            self.error = _error(self.generator, self.graphs, self.chosen, self.feeds)
            done = wanted - max(0, math.ceil(self.error - goal))
            self.report("dB gained by layers in float", max(done, 0), wanted)
        return len(self.chosen) > before


def _units(graphs: dict[str, _Graph]) -> list[set[str]]:
    """Each layer alone, with its readers, and with everything that shares its tensors."""
    found: list[set[str]] = []
    for graph in graphs.values():
        for name in sorted(set().union(*graph.around.values())):
            readers = graph.readers.get(name, set())
            writers = {w for w, r in graph.readers.items() if r & readers}
            both = {name} | readers | writers
            for unit in (
                {name},
                {name} | readers,
                both,
                both | {x for r in readers for x in graph.readers.get(r, ())},
            ):
                if unit not in found:
                    found.append(unit)
    return found


def _holds(score: tuple[float, float], psnr: float | None, ssim: float | None) -> bool:
    good = psnr is None or score[0] >= psnr + _MARGIN
    return good and (ssim is None or score[1] >= min(1.0, ssim + _MARGIN / 100))


@torch.no_grad()
def _error(
    generator: Generator,
    graphs: dict[str, _Graph],
    floats: set[str],
    feeds: list[dict[str, Tensor]],
) -> float:
    """Mean of the logarithm (in dB) of the output's squared error, with these layers in float."""
    for graph in graphs.values():
        for name, grid in graph.grids.items():
            grid.on = not graph.around[name] <= floats or not graph.around[name]
    total = 0.0
    for tensors in feeds:
        named: dict[str, Any] = {n: tensors[n] for n in generator.signature.inputs}
        for component in generator.components:
            results = graphs[component.name].graph(*(named[n] for n in component.inputs))
            results = results if isinstance(results, tuple) else (results,)
            named |= dict(zip(component.outputs, results, strict=True))
        name = generator.signature.output_name
        total += 10 * float(torch.log10((named[name] - tensors[name]).square().mean() + 1e-9))
    return total / len(feeds)


def _score(generator: Generator, simulation: Generator) -> tuple[float, float]:
    """Mean PSNR and SSIM over the golden prompts."""
    rows = []
    for i, prompt in enumerate(generator.golden):
        feed = generator.prepare(prompt, golden_seed(i))
        tensors = generator.tensors(feed), simulation.tensors(feed)
        name, signature = generator.signature.output_name, generator.signature
        true, drawn = (to_pixels(t[name].detach().numpy(), signature) for t in tensors)
        rows.append((picture_psnr(drawn, true), picture_ssim(drawn, true)))
    mean = np.mean(rows, axis=0)
    return float(mean[0]), float(mean[1])
