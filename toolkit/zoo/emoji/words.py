"""A phase of the text side alone: more of the words beyond the captions, and one thing drawn for each.

Trained by squared error, a text side that is not sure writes the mean of what might be meant, and
the mean of a lion, a bear and a horse is a brown lump. So the codes of all names stand as marks
here: what is written must be nearer to a mark that fits than to any other, by cross-entropy over
distances, and as near to it as it comes, by the distance itself, not its square, which pulls to the
likeliest mark and not to their mean. The codes of names stay what they were, so that the decoder's
pictures stay.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.toolkit.train import (
    Average,
    Report,
    Stateful,
    adam,
    falling,
    fast,
    run_phase,
    set_rates,
)

from .model import TextSide
from .text import ALIKE_WEIGHT, TEACHER_WEIGHT, PromptBatches, chosen, joined, teacher_embeddings
from .wider import MOST

NAMES, KEYWORDS, BEYOND = 96, 64, 128  # prompts of a batch
TEMPERATURE = (
    24.0  # squared distance of codes at which one mark is e times less likely than another
)
NAMES_WEIGHT, KEYWORDS_WEIGHT, NEAR_WEIGHT, MARK_WEIGHT = 3.0, 1.5, 0.3, 0.045
PIECES = 6  # of a batch, by length: short prompts need no padding to the longest


class Marks:
    """The codes of all names, and how far others are from them.

    rows: int64 (N,), of emoji; codes: float32 (emoji, …).
    """

    def __init__(self, rows: np.ndarray, codes: Tensor) -> None:
        self.place = {int(row): i for i, row in enumerate(rows)}
        self.table = codes[torch.from_numpy(rows)].flatten(1)
        self.squares = self.table.square().sum(1)

    def distances(self, codes: Tensor) -> Tensor:
        """float32 (B, C) → squared distances (B, N)."""
        squares = codes.square().sum(1, keepdim=True)
        return (squares + self.squares - 2 * codes @ self.table.T).clamp(min=1e-6)

    def places(self, fitting: Sequence[Collection[int]]) -> Tensor:
        """int64 (B, MOST): of the rows that fit each prompt, one or more; the first fills up."""
        found = [[self.place[row] for row in sorted(rows)][:MOST] for rows in fitting]
        return torch.tensor([f + f[:1] * (MOST - len(f)) for f in found])


def to_fitting(squared: Tensor, fitting: Tensor, values: int) -> tuple[Tensor, Tensor]:
    """(B,) root mean square difference from the nearest mark that fits, and (B,) minus the logarithm of
    its share.

    squared: (B, N), of `Marks.distances`; fitting: (B, F), of `Marks.places`; values: in a code.
    """
    near = squared.gather(1, fitting).amin(1)
    share = F.log_softmax(-squared / TEMPERATURE, 1).gather(1, fitting).amax(1)
    return (near / values + 1e-3).sqrt(), -share.clamp(min=-60)


def _pooled(text: TextSide, tokens: Tensor) -> Tensor:
    """What `text.pooled` gives, in pieces of like length."""
    length = (tokens != 0).sum(1)
    order = length.argsort()
    pieces = [text.pooled(tokens[o][:, : int(length[o].max()) + 2]) for o in order.chunk(PIECES)]
    return torch.cat(pieces)[order.argsort()]


def _write(text: TextSide, pooled: Tensor, meaning: Tensor) -> Tensor:
    return text.written(text.thing(pooled, meaning))


@torch.no_grad()
def judge_words(text: TextSide, batches: PromptBatches, marks: Marks) -> dict[str, float]:
    """How often the nearest mark fits, of 1,000 words beyond the captions, and how far names are from
    where they were (mean squared)."""
    random = np.random.default_rng(0)
    which, tokens = batches.wide(random, 1000)
    fitting = marks.places([set(batches.wider[batches.wide_words[i]]) for i in which])
    meaning = chosen(random.integers(0, 16, 1000))
    nearest = marks.distances(_write(text, _pooled(text, tokens), meaning)).argmin(1)
    rows = batches.captions.rows
    tokens, meaning = batches.names(rows, random)
    moved = _write(text, _pooled(text, tokens), meaning) - marks.table
    fits = (nearest[:, None] == fitting).any(1).float().mean()
    return {"wide_r1": float(fits), "names_moved": float(moved.square().mean())}


def fit_words(
    batches: PromptBatches,
    text: TextSide,
    work: Path,
    report: Report,
    *,
    steps: int,
    rate: float = 6e-4,
    seed: int = 5,
) -> TextSide:
    """Trains a copy of the text side; returns its average. Resumes from `work`.

    batches: its codes are what names go on giving. rate: of Adam.
    """
    torch.manual_seed(seed)
    captions = batches.captions
    text = copy.deepcopy(text).train().requires_grad_(True)
    marks, values = Marks(captions.rows, batches.codes), batches.codes[0].numel()
    fitting = marks.places([set(batches.wider[w]) for w in batches.wide_words])
    plain = batches.tokens([captions.names[int(r)] for r in captions.rows])
    teacher = teacher_embeddings([captions.names[int(r)] for r in captions.rows])
    with fast():
        beyond = teacher_embeddings(batches.wide_words).float()
    head = nn.Linear(text.words.in_features, teacher.shape[1])
    optimizer = adam(([*text.parameters(), *head.parameters()], rate))
    average = Average(dict(text.named_parameters()))

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        rows = random.choice(captions.rows, NAMES)
        tokens, choices = batches.names(rows, random)
        more, more_choices, meant = batches.keywords(random, KEYWORDS, wide=0.0)
        which, further = batches.wide(random, BEYOND)
        said = joined(tokens, more, further)
        choices = torch.cat(
            [choices, more_choices, chosen(random.integers(0, choices.shape[1], BEYOND))]
        )
        one = marks.places([[int(r)] for r in (*rows, *meant)])
        fits = torch.cat([one, fitting[which]])

        pooled = _pooled(text, said)
        squared = marks.distances(_write(text, pooled, choices))
        exact = squared[: len(one)].gather(1, one[:, :1]).mean(1) / values
        names, keywords = exact[:NAMES].mean(), exact[NAMES:].mean()
        near, unlike = to_fitting(squared, fits, values)
        loss = NAMES_WEIGHT * names + KEYWORDS_WEIGHT * keywords
        loss = loss + NEAR_WEIGHT * near[len(one) :].mean()
        loss = loss + MARK_WEIGHT * (unlike[: len(one)].mean() + unlike[len(one) :].mean())

        outer = torch.cat([pooled[:NAMES], pooled[len(one) :]])
        taught = torch.cat([teacher[one[:NAMES, 0]], beyond[which]])
        like = 1 - F.cosine_similarity(head(outer), taught).mean()
        sole = torch.cat(
            [torch.ones(NAMES, dtype=torch.bool), torch.from_numpy(batches.only >= 0)[which]]
        )
        with torch.no_grad():
            plainly = _pooled(text, plain[torch.cat([one[:NAMES, 0], fitting[which][:, 0]])])
        alike = (outer - plainly)[sole].square().mean() / plainly.var()
        loss = loss + TEACHER_WEIGHT * like + ALIKE_WEIGHT * alike

        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(dict(text.named_parameters()))
        logged = {
            "names": names,
            "keywords": keywords,
            "unlike": unlike[len(one) :].mean(),
            "teacher": like,
            "alike": alike,
        }
        return {k: v.detach() for k, v in logged.items()}

    def averaged() -> TextSide:
        mean = copy.deepcopy(text).eval()
        mean.load_state_dict({**mean.state_dict(), **average.tensors})
        return mean

    state: dict[str, Stateful] = {
        "text": text,
        "head": head,
        "optimizer": optimizer,
        "average": average,
    }
    run_phase(
        "words",
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_words(averaged(), batches, marks),
        evaluate_every=1000,
    )
    return averaged()
