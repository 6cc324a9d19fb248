"""Which layer loses the accuracy: in the simulation of the int8 graph, and on each target.

For each layer, its own error is what it gives on what really reached it, minus what the float layer
gives there. "Alone" is that error put into the float generator; "cumulative" is the float generator
continued from the int8 values of all layers so far.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from genedge.runtime.artifact import Artifact
from genedge.runtime.errors import BadInput
from genedge.runtime.files import replacing
from genedge.runtime.metrics import CAP, picture_psnr, sqnr
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import load

from .generator import Generator, golden_seed
from .progress import Report
from .qat import trainer
from .quantize import quantize
from .taps import Graphs, graphs_of, run_twin, walk

JSON_SCHEMA = 1
SIMULATION = "simulation"
# Rounding ties fall either way between runtimes: one step of the grid. Two are a fault.
FAULT_STEPS, FAULT_SHARE = 1.5, 1e-3


@dataclass(frozen=True)
class Loss:
    """One layer's loss, means over prompts, in dB, at most 100; lower is worse.

    alone, cumulative: SQNR of the layer's output. picture_alone, picture_cumulative: PSNR of the
    final picture to the float generator's. off: share of values more than a step of the layer's
    grid away from what the simulation gives on the same inputs; 0 for the simulation itself.
    """

    layer: str
    alone: float
    cumulative: float
    picture_alone: float
    picture_cumulative: float
    off: float


@dataclass(frozen=True)
class Blame:
    """Losses by layer in the order in which they run, on one target or in the simulation.

    picture: PSNR of its pictures to float. first_off: the first layer that leaves the simulation.
    """

    where: str
    losses: tuple[Loss, ...]
    picture: float
    first_off: str | None

    @property
    def worst(self) -> Loss:
        """The layer that costs the picture most."""
        return min(self.losses, key=lambda x: (x.picture_alone, x.alone))


def feeds_of(generator: Generator, prompts: int) -> list[dict[str, Tensor]]:
    """Inputs of the first golden prompts."""
    feeds = [generator.prepare(p, golden_seed(i)) for i, p in enumerate(generator.golden[:prompts])]
    return [{k: torch.from_numpy(v) for k, v in f.inputs.items()} for f in feeds]


def rebuilt(artifact: Artifact, generator: Generator, report: Report) -> Graphs:
    """The int8 graphs that the artifact was made of. Raises BadInput where it was another model."""
    if artifact.precision != "int8":
        raise BadInput(
            f"{artifact.directory} is {artifact.precision}; blame looks at int8 artifacts"
        )
    if "adopted" in artifact.about:
        raise BadInput(
            f"{artifact.directory} was adopted; blame knows the layers of what genedge quantized alone"
        )
    if artifact.generator_hash != generator.hash():
        raise BadInput(
            f"{artifact.directory} was exported from another {generator.name} than this one; "
            f"name the right --model, or export it again"
        )
    keep = [str(k) for k in artifact.about.get("float_layers", [])]
    with tempfile.TemporaryDirectory() as work:  # what was trained is trained again
        train = trainer(generator, int(artifact.about.get("qat", 0)), Path(work), report)
        quantized = quantize(generator, cpu=artifact.cpu, keep=keep, report=report, train=train)
    return graphs_of(generator, quantized)


def measure_losses(
    graphs: Graphs,
    feeds: Sequence[dict[str, Tensor]],
    where: str = SIMULATION,
    report: Report = lambda what, done, total: None,
) -> Blame:
    """Losses of every layer on `where`: "simulation" or a target."""
    if where == SIMULATION:
        outputs = []
        for feed in feeds:
            picture, seen = walk(graphs, feed, small=True)
            outputs.append(seen | {"": picture})
    else:
        outputs = run_twin(graphs, where, list(feeds), report)
    names = [t.name for t in graphs.taps]
    found: dict[str, list[list[float]]] = {n: [] for n in names}
    pictures = []
    for i, (feed, given) in enumerate(zip(feeds, outputs, strict=True)):
        reference, true = walk(graphs, feed)
        pictures.append(_psnr(graphs, given[""], reference))
        before: dict[str, Tensor] = {}
        computed = true
        sim = walk(graphs, feed, small=True)[1] if where != SIMULATION else {}
        for tap in graphs.taps:
            mine = given[tap.name]
            error = mine - computed[tap.name]
            off = 0.0
            if sim and tap.step:
                off = float(((mine - sim[tap.name]).abs() > FAULT_STEPS * tap.step).float().mean())
            before[tap.name] = mine
            cumulative, computed = walk(graphs, feed, given=before)
            alone = walk(graphs, feed, added={tap.name: error})[0]
            if sim:
                sim = walk(graphs, feed, given=before, small=True)[1]
            found[tap.name].append(
                [
                    _sqnr(true[tap.name] + error, true[tap.name]),
                    _sqnr(mine, true[tap.name]),
                    _psnr(graphs, alone, reference),
                    _psnr(graphs, cumulative, reference),
                    off,
                ]
            )
        report(f"blame {where}", i + 1, len(feeds))
    losses = tuple(Loss(n, *(float(v) for v in np.mean(found[n], axis=0))) for n in names)
    first = next((x.layer for x in losses if x.off > FAULT_SHARE), None)
    return Blame(where, losses, float(np.mean(pictures)), first)


def twin_to_artifact(
    graphs: Graphs,
    artifact: Artifact,
    feeds: Sequence[dict[str, Tensor]],
    report: Report = lambda what, done, total: None,
) -> float:
    """Mean PSNR of the twin's pictures to the artifact's own: 100 where they are the same."""
    twins = run_twin(graphs, artifact.target, list(feeds), report)
    pipeline = load(artifact.directory, check=False)
    values = []
    for feed, twin in zip(feeds, twins, strict=True):
        own = pipeline.values({k: v.numpy() for k, v in feed.items()})
        values.append(_psnr(graphs, twin[""], torch.from_numpy(own)))
    return float(np.mean(values))


def _sqnr(values: Tensor, reference: Tensor) -> float:
    return float(np.clip(sqnr(values.numpy(), reference.numpy()), -CAP, CAP))


def _psnr(graphs: Graphs, values: Tensor, reference: Tensor) -> float:
    signature = graphs.generator.signature
    drawn, true = (to_pixels(v.detach().numpy(), signature) for v in (values, reference))
    return picture_psnr(drawn, true)


def to_table(blame: Blame, rows: int | None = None) -> Table:
    """Worst layers first, by what each alone costs the picture."""
    table = Table(title=blame.where, title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold", min_width=22)
    heads = ("SQNR alone", "so far", "picture alone", "so far", "off")
    for name in heads:
        table.add_column(name, justify="right")
    for loss in sorted(blame.losses, key=lambda x: (x.picture_alone, x.alone))[:rows]:
        figures = (loss.alone, loss.cumulative, loss.picture_alone, loss.picture_cumulative)
        off = f"{100 * loss.off:.2f} %" if loss.off else ""
        table.add_row(loss.layer, *(f"{v:.1f}" for v in figures), off)
    return table


def to_json(blames: Sequence[Blame], about: Mapping[str, Any]) -> str:
    """Stable: schema, then one row per place. Documented in docs/quantization.md."""
    rows = [
        {
            "where": b.where,
            "picture": b.picture,
            "worst": b.worst.layer,
            "first_off": b.first_off,
            "layers": [vars(x) for x in b.losses],
        }
        for b in blames
    ]
    return json.dumps({"schema": JSON_SCHEMA, **about, "blame": rows}, indent=1, ensure_ascii=False)


def draw_chart(blames: Sequence[Blame], path: Path) -> None:
    """A PNG: per layer, the PSNR of the picture with that layer's error alone, one bar per place."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [x.layer for x in blames[0].losses]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.16 * len(names) * len(blames)))
    height = 0.8 / len(blames)
    for i, blame in enumerate(blames):
        places = np.arange(len(names)) + i * height
        axes.barh(places, [x.picture_alone for x in blame.losses], height, label=blame.where)
    axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names, fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("PSNR of the picture with this layer's error alone, dB (shorter is worse)")
    axes.legend()
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
