"""A text side with fewer hidden units: those go that move what follows least."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from genedge.toolkit import channels
from genedge.toolkit.generator import Component

from .model import TextSide
from .text import PromptBatches

PROMPTS, KEYWORD_SHARE = 1536, 0.25


@torch.no_grad()
def slimmed(component: Component, batches: PromptBatches, units: int, seed: int = 0) -> Component:
    """The text side with `units` of its hidden units; it has to learn again what they said.

    component: a TextSide; batches: what its PROMPTS prompts are drawn from. Returns another component,
    whose `kept` names the units that stay by their numbers in the whole text side.
    A unit weighs the standard deviation of its output over prompts, times the norm of what reads
    it. The mean of those that go is added to the bias behind them. As it is where it has no more.
    """
    text = copy.deepcopy(component.module)
    assert isinstance(text, TextSide)
    if text.hidden.in_features <= units:
        return component
    seen: list[torch.Tensor] = []
    handle = text.hidden.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    random = np.random.default_rng(seed)
    rows = random.choice(np.array(batches.captions.rows), PROMPTS)
    for some in np.array_split(rows, 12):
        tokens, choices = batches.either(some, random, KEYWORD_SHARE)
        text(tokens, choices)
    handle.remove()
    spread, mean = torch.std_mean(torch.cat(seen), 0)
    order = (spread * text.hidden.weight.norm(dim=0)).argsort(descending=True)
    left, gone = order[:units].sort().values.tolist(), order[units:]
    text.hidden.bias.add_(text.hidden.weight[:, gone] @ mean[gone])
    ids = tuple(left)
    kept = {name: {"out": ids} for name in ("words", "scale", "shift")} | {"hidden": {"in": ids}}
    channels.keep(text, kept)
    return replace(component, module=text.eval(), kept=channels.compose(component.kept, kept))
