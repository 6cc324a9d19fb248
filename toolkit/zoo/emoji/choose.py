"""A phase of the text side: it learns to decide for one of the things that it can name.

Trained by squared error on codes, a text side that is not sure writes the mean of what might be
meant, and the mean of a lion, a bear and a horse is drawn as a brown lump. A Chooser tells how likely
each thing is, by cross-entropy, and writes the code of the likeliest (`model.Chooser`). A name means
one thing whatever the choice; a keyword and a choice mean one, but a part of the loss lets anything
pass that fits; of words beyond the captions whatever MiniLM finds near fits.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.toolkit.generator import Generator, golden_seed
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

from .captions import Captions
from .model import MARGIN, MEANINGS, Chooser, TextSide
from .text import ALIKE_WEIGHT, PromptBatches, chosen, joined, teacher_embeddings

STEPS, RATE = 13_000, 1e-3
NAMES, KEYWORDS, BEYOND = 96, 144, 256  # prompts of a batch
EXACT = 0.7  # of a keyword's loss asks for what its choice means, the rest for anything that fits
TEACHER_WEIGHT, TIE_WEIGHT, BAND_WEIGHT = 0.3, 0.5, 0.05
CLEAR = 0.4  # nats between the likeliest and the next, of prompts that a generator lists
BAND = 7.0, 11.0  # nats that the likeliest thing should have: clamps cut 0 and 14
APART = 1.0  # nats between the likeliest and the next that cost nothing
VAGUE = 10
PIECES = 6  # of a batch, by length: short prompts need no padding to the longest
SORTED = 1536  # prompts that hidden units are judged by


@torch.no_grad()
def chooser_of(text: TextSide, batches: PromptBatches, seed: int = 0) -> Chooser:
    """A Chooser that hears what `text` hears, and writes the codes of `batches`, on their int8 grid.

    Of the hidden units those stay whose spread over prompts, times the weights that read it, is
    largest. What is likely it has yet to learn.
    """
    random = np.random.default_rng(seed)
    rows = batches.captions.rows
    made = Chooser(*_sizes(text), things=len(rows))
    seen: list[Tensor] = []
    handle = text.hidden.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    for some in np.array_split(random.choice(rows, SORTED), 6):
        text(*batches.either(some, random, 0.4))
    handle.remove()
    worth = torch.cat(seen).std(0) * text.hidden.weight.norm(dim=0)
    units = worth.argsort(descending=True)[: made.hidden.in_features].sort().values
    for name in ("embedding", "conv1", "conv2"):
        getattr(made, name).load_state_dict(getattr(text, name).state_dict())
    for name in ("words", "scale", "shift"):
        old, new = getattr(text, name), getattr(made, name)
        new.weight[: len(units)] = old.weight[units]
        if new.bias is not None:
            new.bias[: len(units)] = old.bias[units]
    nn.init.normal_(made.hidden.weight, std=0.02)
    made.hidden.bias.fill_(sum(BAND) / 2)
    made.set_codes(batches.codes[torch.from_numpy(rows)])
    made.write.requires_grad_(False)
    return made


def _sizes(text: TextSide) -> tuple[int, int, int]:
    return text.embedding.num_embeddings, text.embedding.embedding_dim, text.conv2.out_channels


class Fitting:
    """Which things fit a prompt.

    place: row of an emoji → its thing. words: keyword or phrase → bool (things,), of any language.
    further: the things of each word beyond the captions.
    """

    def __init__(self, batches: PromptBatches) -> None:
        self.place = {int(row): i for i, row in enumerate(batches.captions.rows)}
        self.words: dict[str, Tensor] = {}
        for pool in batches.pools:
            for word, rows in (pool.captions.vague | pool.captions.phrases).items():
                fits = self._things(rows)
                self.words[word] = self.words[word] | fits if word in self.words else fits
        self.further = [
            sorted({self.place[r] for r in batches.wider[w]}) for w in batches.wide_words
        ]

    def _things(self, rows: Collection[int]) -> Tensor:
        fits = torch.zeros(len(self.place), dtype=torch.bool)
        fits[[self.place[r] for r in rows]] = True
        return fits

    def places(self, rows: Sequence[int]) -> Tensor:
        """int64 (N,): the things that these emoji are."""
        return torch.tensor([self.place[int(r)] for r in rows])

    def beyond(self, which: Tensor) -> Tensor:
        """bool (N, things), of words beyond the captions by their numbers."""
        fits = torch.zeros(len(which), len(self.place), dtype=torch.bool)
        for i, word in enumerate(which.tolist()):
            fits[i, self.further[word]] = True
        return fits


def pooled_by_length(text: TextSide, tokens: Tensor) -> Tensor:
    """What `text.pooled` gives, computed in pieces of like length."""
    length = (tokens != 0).sum(1)
    order = length.argsort()
    pieces = [text.pooled(tokens[o][:, : int(length[o].max()) + 2]) for o in order.chunk(PIECES)]
    return torch.cat(pieces)[order.argsort()]


def passing(likely: Tensor, fits: Tensor) -> Tensor:
    """float32 (B,): minus the logarithm of the share of what fits. likely: (B, things), nats."""
    shares = F.log_softmax(likely, 1).masked_fill(~fits, -torch.inf)
    return -shares.logsumexp(1)


def keyword_batch(
    batches: PromptBatches, random: np.random.Generator, count: int
) -> tuple[Tensor, Tensor, list[int], list[str]]:
    """Tokens, choices, what they mean and the keywords themselves: of captions alone."""
    choices = random.integers(0, MEANINGS, count)
    words, rows, prompts = [], [], []
    for choice in choices:
        pool = batches.language(random)
        word = pool.words[random.choice(len(pool.words), p=pool.chance)]
        words.append(word)
        rows.append(pool.meanings[word][choice])
        prompts.append(batches.keyword(word, pool.captions, random))
    return batches.tokens(prompts), chosen(choices), rows, words


@torch.no_grad()
def judge_choices(text: Chooser, batches: PromptBatches, fitting: Fitting) -> dict[str, float]:
    """How often the likeliest thing is right: of names, of keywords that fit VAGUE at least, of words
    beyond the captions; and how often two are near a tie."""
    random = np.random.default_rng(0)

    def likely(tokens: Tensor, choices: Tensor) -> Tensor:
        return text.likely(pooled_by_length(text, tokens), choices)

    def share(found: Tensor, fits: Tensor) -> float:
        return float(fits.gather(1, found.argmax(1, keepdim=True)).float().mean())

    captions: Captions = batches.captions
    names = likely(*batches.names(captions.rows, random))
    scores = {"names_r1": share(names, torch.eye(len(captions.rows), dtype=torch.bool))}
    if vague := [w for w, rows in captions.vague.items() if len(rows) >= VAGUE]:
        choices = chosen(random.integers(0, MEANINGS, len(vague)))
        words = likely(batches.tokens(vague), choices)
        scores["vague_r1"] = share(words, torch.stack([fitting.words[w] for w in vague]))
        scores["vague_ties"] = float((_gap(words) < MARGIN).float().mean())
    if batches.wide_words:
        which, tokens = batches.wide(random, 1000)
        further = likely(tokens, chosen(random.integers(0, MEANINGS, len(which))))
        scores["wide_r1"] = share(further, fitting.beyond(which))
    return scores


def _gap(likely: Tensor) -> Tensor:
    first, second = likely.topk(2, 1).values.unbind(1)
    return first - second


def fit_choice(
    batches: PromptBatches,
    text: TextSide,
    work: Path,
    report: Report,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 5,
) -> Chooser:
    """A Chooser that begins with what `text` has learned; its average. Resumes from `work`.

    batches: its codes are what names will give. rate: of Adam.
    """
    torch.manual_seed(seed)
    captions, fitting = batches.captions, Fitting(batches)
    made = chooser_of(text, batches) if not isinstance(text, Chooser) else copy.deepcopy(text)
    plain = batches.tokens([captions.names[int(r)] for r in captions.rows])
    teacher = teacher_embeddings([captions.names[int(r)] for r in captions.rows])
    with fast():
        beyond = teacher_embeddings(batches.wide_words).float() if batches.wide_words else None
    head = nn.Linear(made.words.in_features, teacher.shape[1])
    weights = {n: p for n, p in made.named_parameters() if p.requires_grad}
    optimizer = adam(([*weights.values(), *head.parameters()], rate))
    average = Average(weights)

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        rows = random.choice(captions.rows, NAMES)
        tokens, choices = batches.names(rows, random)
        more, more_choices, meant, words = keyword_batch(batches, random, KEYWORDS)
        said, choices = [tokens, more], torch.cat([choices, more_choices])
        fits = torch.stack([fitting.words[w] for w in words])
        same, sole = fitting.places(rows.tolist()), [True] * NAMES
        taught = teacher[same]
        if beyond is not None:
            which, further = batches.wide(random, BEYOND)
            said.append(further)
            choices = torch.cat([choices, chosen(random.integers(0, MEANINGS, BEYOND))])
            fits = torch.cat([fits, fitting.beyond(which)])
            taught = torch.cat([taught, beyond[which]])
            same = torch.cat([same, torch.tensor([fitting.further[i][0] for i in which.tolist()])])
            sole += (batches.only[which] >= 0).tolist()

        pooled = pooled_by_length(made, joined(*said))
        likely = made.likely(pooled, choices)
        exact = F.cross_entropy(
            likely[: NAMES + KEYWORDS], fitting.places([*rows, *meant]), reduction="none"
        )
        passed = passing(likely[NAMES:], fits)
        losses = {
            "names": exact[:NAMES].mean(),
            "keywords": EXACT * exact[NAMES:].mean() + (1 - EXACT) * passed[:KEYWORDS].mean(),
        }
        if beyond is not None:
            losses["beyond"] = passed[KEYWORDS:].mean()
        most = likely.amax(1)
        band = (F.relu(most - BAND[1]).square() + F.relu(BAND[0] - most).square()).mean()
        losses["band"] = BAND_WEIGHT * band
        losses["ties"] = TIE_WEIGHT * F.relu(APART - _gap(likely)).mean()

        outer = torch.cat([pooled[:NAMES], pooled[NAMES + KEYWORDS :]])
        losses["teacher"] = (
            TEACHER_WEIGHT * (1 - F.cosine_similarity(head(outer), taught, dim=1)).mean()
        )
        with torch.no_grad():
            target = pooled_by_length(made, plain[same])
        apart = (outer - target)[torch.tensor(sole)].square().mean() / target.var()
        losses["alike"] = ALIKE_WEIGHT * apart
        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update(weights)
        return {k: v.detach() for k, v in losses.items()}

    def averaged() -> Chooser:
        mean = copy.deepcopy(made).eval()
        mean.load_state_dict({**mean.state_dict(), **average.tensors})
        return mean

    state: dict[str, Stateful] = {
        "text": made,
        "head": head,
        "optimizer": optimizer,
        "average": average,
    }
    run_phase(
        "choice",
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_choices(averaged(), batches, fitting),
    )
    return averaged()


@torch.no_grad()
def decided(text: Chooser, generator: Generator) -> Chooser:
    """A copy to which each prompt that the generator lists means one thing: what is likeliest is made
    CLEAR likelier than the next, by its bias. One step of int8's grid would decide otherwise."""
    made = copy.deepcopy(text)
    listed = [(p, golden_seed(i)) for i, p in enumerate(generator.golden)]
    listed += [(p, i) for i, p in enumerate(generator.calibration)]
    for prompt, seed in listed:
        inputs = generator.prepare(prompt, seed).inputs
        tokens, meaning = (torch.from_numpy(inputs[n]) for n in ("tokens", "meaning"))
        likely = made.likely(made.pooled(tokens), meaning)[0]
        (first, second), (thing, _) = likely.topk(2)
        if first > 0:
            made.hidden.bias[thing] += max(0.0, CLEAR - float(first - second))
    return made
