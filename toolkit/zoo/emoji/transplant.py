"""A trained text side, carried over to another vocabulary and to fewer hidden units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from genedge.runtime.tokenizer import PromptTokenizer

from .model import TextSide
from .text import PromptBatches, joined

ROUNDS, EACH = 12, 256  # of prompts that hidden units are judged by


@torch.no_grad()
def transplanted(
    known: TextSide, batches: PromptBatches, tokenizer: PromptTokenizer, seed: int = 0
) -> TextSide:
    """A text side of the default sizes that knows most of what `known` knows.

    batches: prompts in the vocabulary of `known`. tokenizer: the new one. A token that both have
    keeps its vector; another gets the mean of those that spell it. Of the hidden units those stay
    whose activity on the prompts, times the weights that read it, is largest.
    """
    new = TextSide()
    words, things = _activity(known, batches, seed)
    mine = (words * known.hidden.weight.norm(dim=0)).topk(new.words.out_features).indices
    theirs = (things * known.write.weight.norm(dim=0)).topk(new.write.in_features).indices
    mine, theirs = mine.sort().values, theirs.sort().values
    new.conv1.load_state_dict(known.conv1.state_dict())
    new.conv2.load_state_dict(known.conv2.state_dict())
    for name in ("words", "scale", "shift"):
        _copy(getattr(new, name), getattr(known, name), rows=mine)
    _copy(new.hidden, known.hidden, theirs, mine)
    _copy(new.write, known.write, columns=theirs)
    old_ids = batches.tokenizer.tokenizer.get_vocab()
    model = batches.tokenizer.tokenizer.model
    for token, i in tokenizer.tokenizer.get_vocab().items():
        spelled = [old_ids[token]] if token in old_ids else [t.id for t in model.tokenize(token)]
        new.embedding.weight[i] = known.embedding.weight[spelled].mean(0)
    new.embedding.weight[tokenizer.pad] = 0
    return new.eval()


def _activity(known: TextSide, batches: PromptBatches, seed: int) -> tuple[Tensor, Tensor]:
    """Root mean square of the units of both hidden layers."""
    random = np.random.default_rng(seed)
    words = torch.zeros(known.words.out_features)
    things = torch.zeros(known.write.in_features)
    for _ in range(ROUNDS):
        names = batches.names(random.choice(batches.captions.rows, EACH), random)
        more, choices, _rows = batches.keywords(random, EACH)
        meaning = torch.cat([names[1], choices])
        pooled = known.pooled(joined(names[0], more))
        hidden = torch.relu(known.words(pooled) * known.scale(meaning) + known.shift(meaning))
        words += hidden.square().mean(0)
        things += torch.relu(known.hidden(hidden)).square().mean(0)
    return words.sqrt(), things.sqrt()


def _copy(
    new: nn.Linear, old: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None
) -> None:
    weight: Tensor = old.weight
    bias: Tensor | None = old.bias
    if rows is not None:
        weight, bias = weight[rows], bias[rows] if bias is not None else None
    new.weight.copy_(weight if columns is None else weight[:, columns])
    if bias is not None:
        new.bias.copy_(bias)
