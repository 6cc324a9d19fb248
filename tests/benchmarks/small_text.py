"""A smaller text side than `emoji`'s, for docs/curve.md: narrower, of low rank, taught by the whole.

`genedge prune` ends at 3.6 MB here: each thing has a unit and a code, and none may go. So what tells
things apart, and the table of their codes, become products of two thin matrices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.toolkit.train import Average, adam, falling, set_rates
from genedge.toolkit.zoo.emoji.choose import pooled_by_length
from genedge.toolkit.zoo.emoji.model import MARGIN, MEANINGS, TOKENS, Chooser
from genedge.toolkit.zoo.emoji.text import PromptBatches, chosen, joined

BATCH, RATE, TOP_WEIGHT = 256, 1e-3, 0.05
ROUNDS, NAMES, KEYWORDS, BEYOND = 150, 160, 160, 240  # prompts to learn from


def prompts_to_learn(batches: PromptBatches) -> Tensor:
    """int64 (84000, 32): tokens of names, of keywords and of words beyond the captions."""
    random, said = np.random.default_rng(3), []
    for _ in range(ROUNDS):
        said.append(batches.names(random.choice(batches.captions.rows, NAMES), random)[0])
        said.append(batches.keywords(random, KEYWORDS)[0])
        said.append(batches.wide(random, BEYOND)[1])
    tokens = joined(*said)
    return F.pad(tokens, (0, TOKENS - tokens.shape[1]))


def thin(layer: nn.Linear, rank: int, at: Tensor | None = None) -> nn.Sequential:
    """Two layers whose product is nearest to the weights, of this rank.

    at: a scalar, where the inputs of every example sum up to it: the mean of the columns then goes
    into the bias, and only what differs from it into the product.
    """
    weight = layer.weight.detach()
    centre = weight.mean(1, keepdim=True) if at is not None else torch.zeros(len(weight), 1)
    u, s, v = torch.linalg.svd(weight - centre, full_matrices=False)
    first, second = nn.Linear(v.shape[1], rank, bias=False), nn.Linear(rank, len(weight))
    with torch.no_grad():
        first.weight.copy_(s[:rank, None].sqrt() * v[:rank])
        second.weight.copy_(u[:, :rank] * s[:rank].sqrt())
        second.bias.copy_(layer.bias + (centre[:, 0] * at if at is not None else 0))
    return nn.Sequential(first, second)


@torch.no_grad()
def smaller(whole: Chooser, width: int, names: int, codes: int) -> Chooser:
    """`width` channels of the convolutions, those that are read most; ranks of what tells things
    apart and of their codes. The token table stays."""
    made = copy.deepcopy(whole)
    one = (
        whole.conv2.weight.transpose(0, 1).flatten(1).norm(dim=1).topk(width).indices.sort().values
    )
    two = whole.words.weight.norm(dim=0).topk(width).indices.sort().values
    made.conv1.weight = nn.Parameter(whole.conv1.weight[one].clone())
    made.conv2.weight = nn.Parameter(whole.conv2.weight[two][:, one].clone())
    made.words.weight = nn.Parameter(whole.words.weight[:, two].clone())
    made.hidden = thin(whole.hidden, names)
    made.write = thin(whole.write, codes, torch.tensor(MARGIN))  # the sum of what is chosen
    return made


def taught(
    made: Chooser, whole: Chooser, tokens: Tensor, steps: int, tell: Callable[[int, float], None]
) -> Chooser:
    """`made` after learning how likely `whole` finds each thing; its codes stay.

    tokens: int64 (N, 32), of the prompts to learn from.
    """
    random = np.random.default_rng(0)
    made.write.requires_grad_(False)
    learning = {n: p for n, p in made.named_parameters() if p.requires_grad}
    optimizer, average = adam((learning.values(), RATE)), Average(learning)
    for step in range(steps):
        set_rates(optimizer, falling(step, steps))
        some = tokens[torch.from_numpy(random.integers(0, len(tokens), BATCH))]
        meaning = chosen(random.integers(0, MEANINGS, BATCH))
        with torch.no_grad():
            wanted = whole.likely(pooled_by_length(whole, some), meaning)
        found = made.likely(pooled_by_length(made, some), meaning)
        loss = F.kl_div(F.log_softmax(found, 1), F.log_softmax(wanted, 1), log_target=True,
                        reduction="batchmean")  # fmt: skip
        top = (found.amax(1) - wanted.amax(1)).square().mean()
        optimizer.zero_grad()
        (loss + TOP_WEIGHT * top).backward()
        optimizer.step()
        average.update(learning)
        if (step + 1) % 100 == 0:
            tell(step + 1, float(loss.detach()))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name in learning:
                parameter.copy_(average.tensors[name])
    return made.requires_grad_(False)
