"""Quantization-aware distillation: the component that draws is trained through its int8 grids.

It draws the generator's own prompts in int8, and weights, biases, ranges and zero points follow the
gradient towards what float draws of the same code. It needs no pictures, only prompts: the
generator's own, and new ones made of their words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from .generator import Component, Generator
from .grids import Grid, with_grids
from .observers import OF_WEIGHTS
from .rewriting import tensor_of
from .train import Stateful, adam, falling, run_phase, set_rates

BATCH = 8  # pictures a step
RATE = 3e-4  # of a tensor's root mean square, a step
SCALE_RATE, ZERO_RATE = 1e-3, 0.05  # of the logarithm of a range, and of a zero point
_WARM = 20  # steps: Adam's first ones would undo what calibration found
_FLOOR = 1e-7  # of squared error of a range of 1: nearer pictures need not come nearer still


def new_prompt(prompts: tuple[str, ...], random: np.random.Generator) -> str:
    """One of the prompts, or, half of the time, the front of one and the rest of another."""
    one = prompts[int(random.integers(len(prompts)))]
    if random.random() < 0.5:
        return one
    words, others = one.split(), prompts[int(random.integers(len(prompts)))].split()
    made = " ".join([*words[: max(1, len(words) // 2)], *others[len(others) // 2 :]])
    return made or one


def _tensors(generator: Generator, random: np.random.Generator) -> dict[str, Tensor]:
    """Every named tensor of a picture of the float generator."""
    known = random.integers(len(generator.calibration)) if generator.calibration else 0
    prompt = generator.calibration[int(known)] if generator.calibration else ""
    if not generator.signature.images and generator.calibration:
        prompt = new_prompt(generator.calibration, random)
    return generator.tensors(generator.prepare(prompt, int(random.integers(2**31))))


def train_grids(
    generator: Generator,
    component: Component,
    prepared: GraphModule,
    steps: int,
    work: Path,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
    seed: int = 0,
) -> GraphModule:
    """A copy of a calibrated graph, trained for `steps`; convert_pt2e takes it as it takes `prepared`.

    prepared: of `component`, which has one output. work: a folder for checkpoints, from which an
    interrupted run goes on. Weights end on grids that their observers keep, so that under `portable`
    no sum of products can overflow.
    """
    graph = copy.deepcopy(prepared)
    observers = {
        name: copy.deepcopy(observer)
        for name, observer in graph.named_modules()
        if isinstance(observer, OF_WEIGHTS)
    }
    grids = with_grids(graph, Grid)
    inside = {id(p) for g in grids.values() for p in g.parameters()}
    weights = [p for p in graph.parameters() if id(p) not in inside]
    for parameter in weights:
        parameter.requires_grad_(True)
    free = [g for g in grids.values() if not g.symmetric and g.log_scale.requires_grad]
    sizes = [float(p.detach().square().mean().sqrt()) for p in weights]
    optimizer = adam(
        *(([p], RATE * size) for p, size in zip(weights, sizes, strict=True) if size > 0),
        ([g.log_scale for g in free], SCALE_RATE),
        ([g.zero for g in free], ZERO_RATE),
    )
    output = component.outputs[0]
    spread = generator.signature.output.high - generator.signature.output.low

    def one_step(step: int) -> Mapping[str, Tensor]:
        report("quantization-aware distillation", step, steps)
        random = np.random.default_rng([seed, step])
        optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(BATCH):
            tensors = _tensors(generator, random)
            drawn = graph(*(tensors[n].detach() for n in component.inputs))
            error = ((drawn - tensors[output]) / spread).square().mean()
            loss = torch.log(error + _FLOOR) / BATCH
            loss.backward()
            total += loss.detach()
        set_rates(optimizer, min(1.0, (step + 1) / _WARM) * falling(step, steps, flat=0.3))
        optimizer.step()
        return {"loss": total}

    state: dict[str, Stateful] = {"graph": graph, "optimizer": optimizer}
    run_phase("qat", work, steps, state, one_step, _silent, log_every=50)
    report("quantization-aware distillation", steps, steps)
    return _with_observers(graph, observers)


def trainer(
    generator: Generator,
    steps: int,
    work: Path,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Callable[[Component, GraphModule], GraphModule] | None:
    """What `quantize` takes as `train`; None for no steps. work: a folder for checkpoints."""
    if not steps:
        return None
    return lambda component, prepared: train_grids(
        generator, component, prepared, steps, work, report
    )


def _silent(name: str, done: int, total: int, scores: Mapping[str, float]) -> None:
    return None


@torch.no_grad()
def _with_observers(graph: GraphModule, observers: Mapping[str, nn.Module]) -> GraphModule:
    """Puts weights on their trained grids, and the observers of weights back: these keep a grid, and
    choose a coarser one where a pair of products could overflow."""
    for node in graph.graph.nodes:
        if node.op != "call_module" or str(node.target) not in observers:
            continue
        grid: Any = graph.get_submodule(str(node.target))
        assert isinstance(grid, Grid)
        weight = tensor_of(graph, node.args[0])
        weight.copy_(grid(weight))
        observer = observers[str(node.target)]
        observer(weight)
        setattr(graph, str(node.target), observer)
    return graph.requires_grad_(False)
