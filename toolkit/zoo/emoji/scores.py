"""How good a generator of emoji is: every score that `genedge evaluate` prints.

Pictures are judged by pixels and by a network that took no part in training. Its features are
those of EfficientNet-Lite0, trained on photographs; one linear layer over them learns to name the
real art, in the generator's seven styles and in an eighth that the generator never sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genedge.runtime.metrics import ssim
from genedge.toolkit.drawings import drawn
from genedge.toolkit.generator import Generator
from genedge.toolkit.perceptual import LAST_FEATURES, embeddings
from genedge.toolkit.train import Report, fast

from .captions import CHINESE, Captions, captions_of
from .codes import judged_rows, one_hot, to_bytes
from .data import STYLES, Art, extra_style, translations
from .judge import composites, judge, nearest_emoji
from .model import MEANINGS
from .paraphrases import paraphrases
from .text import chosen

EPOCHS, RATE, PASSES = 12, 2e-3, 2  # of the classifier; passes: each picture plain, and moved
DIVERSE, SEEDS = 32, 8


@torch.no_grad()
def draw_prompts(
    generator: Generator, prompts: Sequence[str], choices: np.ndarray, styles: np.ndarray
) -> Tensor:
    """uint8 (N, 4, 64, 64), premultiplied. choices, styles: int64 (N,)."""
    assert generator.tokenizer is not None
    tokens = torch.from_numpy(np.concatenate([generator.tokenizer.encode(p)[0] for p in prompts]))
    inputs = {
        "tokens": tokens,
        "meaning": chosen(choices),
        "style": one_hot(torch.from_numpy(styles)),
    }
    name, pieces = generator.signature.output_name, []
    for first in range(0, len(prompts), 64):
        some = {k: v[first : first + 64] for k, v in inputs.items()}
        pieces.append(to_bytes(drawn(generator.components, some)[name]))
    return torch.cat(pieces)


def _white(pictures: Tensor) -> np.ndarray:
    """uint8 (N, 4, 64, 64), premultiplied → uint8 (N, 64, 64, 3) over white."""
    return composites(pictures)[:, 3:].permute(0, 2, 3, 1).to(torch.uint8).numpy()


def features_of(pictures: Tensor) -> Tensor:
    """float32 (N, F): EfficientNet-Lite0's, of uint8 (N, 4, 64, 64), over white."""
    with fast():
        return torch.cat([embeddings(_white(p)).float() for p in pictures.split(64)])


def moved(pictures: Tensor, seed: int) -> Tensor:
    """Each picture shifted by one pixel in one of eight directions, and slightly blurred."""
    random = np.random.default_rng(seed)
    ways = [w for w in itertools.product((-1, 0, 1), repeat=2) if w != (0, 0)]
    shifts = [ways[i] for i in random.integers(0, len(ways), len(pictures))]
    rolled = torch.stack([p.roll(s, (1, 2)) for p, s in zip(pictures, shifts, strict=True)])
    kernel = torch.tensor([0.1, 0.8, 0.1])
    kernel = (kernel[:, None] * kernel[None]).expand(4, 1, 3, 3)
    return F.conv2d(rolled.float(), kernel, padding=1, groups=4).round().to(torch.uint8)


def real_pictures(art: Art, rows: np.ndarray) -> Tensor:
    """uint8 (N, 4, 64, 64), premultiplied."""
    return torch.from_numpy(np.ascontiguousarray(art.pictures[rows].transpose(0, 3, 1, 2)))


@dataclass(frozen=True)
class Namer:
    """The classifier: names the emoji of a picture, whatever its style."""

    layer: nn.Linear
    centre: Tensor
    spread: Tensor

    @torch.no_grad()
    def ranked(self, features: Tensor, count: int = 5) -> np.ndarray:
        """int64 (N, count): the likeliest emoji."""
        found: np.ndarray = (
            self.layer((features - self.centre) / self.spread).topk(count).indices.numpy()
        )
        return found


def namer(art: Art, cache: Path, report: Report) -> Namer:
    """The classifier, trained once on all real art and kept in `cache`: about five minutes.

    Raises MissingProgram where EfficientNet-Lite0 is not installed, and what `fetch` raises.
    """
    path = cache / "namer-v1.safetensors"
    if not path.exists():
        more, emoji = extra_style(cache, art.emoji)
        rows = np.arange(len(art.emoji_of))
        pictures = torch.cat([real_pictures(art, rows), torch.from_numpy(more).permute(0, 3, 1, 2)])
        meant = torch.from_numpy(np.concatenate([art.emoji_of, emoji]))
        seen = []
        for turn in range(PASSES):
            for i, some in enumerate(pictures.split(1024)):
                seen.append(features_of(moved(some, 1000 * turn + i) if turn else some))
                report("judge", len(seen), PASSES * len(pictures.split(1024)), {})
        partial = path.with_name(path.name + ".partial")
        save_file(_fitted(torch.cat(seen), meant.repeat(PASSES), len(art.emoji)), partial)
        partial.replace(path)
    kept = load_file(path)
    layer = nn.Linear(kept["weight"].shape[1], kept["weight"].shape[0])
    layer.load_state_dict({"weight": kept["weight"].float(), "bias": kept["bias"]})
    return Namer(layer.requires_grad_(False), kept["centre"], kept["spread"])


def _fitted(features: Tensor, meant: Tensor, classes: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    centre, spread = features.mean(0), features.std(0).clamp(min=1e-3)
    features = (features - centre) / spread
    layer = nn.Linear(features.shape[1], classes)
    optimizer = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=0.05)
    steps = EPOCHS * len(features) // 256
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        picked = torch.randint(len(features), (256,), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(layer(features[picked]), meant[picked], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weight, bias = layer.weight.detach().half(), layer.bias.detach()
    return {"weight": weight, "bias": bias, "centre": centre, "spread": spread}


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features (N, F) and (M, F), unbiased.

    With the kernel (x·y / F + 1)³, as KID has it (Bińkowski et al., "Demystifying MMD GANs",
    ICLR 2018), on EfficientNet-Lite0's features instead of Inception's: not KID's own numbers.
    """
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def inside(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(inside(a) + inside(b) - 2 * kernel(a, b).mean())


def copy_rate(pictures: Tensor, art: Art) -> float:
    """Share of pictures whose nearest training picture is less than a third as far as the second.

    pictures: uint8 (N, 4, 64, 64), premultiplied. Distance: root of the squared error over black
    and over white together.
    """
    train = composites(real_pictures(art, np.flatnonzero(art.train))).flatten(1)
    near = torch.cat(
        [
            torch.cdist(composites(p).flatten(1), train).topk(2, largest=False).values
            for p in pictures.split(64)
        ]
    )
    return float((near[:, 0] < near[:, 1] / 3).float().mean())


def _ssim(pictures: Tensor, real: Tensor) -> float:
    return float(np.mean([ssim(a, b) for a, b in zip(_white(pictures), _white(real), strict=True)]))


def diversity(generator: Generator, captions: Captions) -> float:
    """How unlike the pictures of eight choices are, for 32 keywords that fit more than eight emoji:
    mean distance between their features, each of unit length; 0 … 2."""
    random = np.random.default_rng(12)
    words = [w for w, fit in captions.vague.items() if len(fit) > SEEDS]
    words = [str(w) for w in random.choice(words, min(DIVERSE, len(words)), replace=False)]
    found = []
    for i, word in enumerate(words):
        choices = random.permutation(MEANINGS)[:SEEDS]
        style = np.full(SEEDS, i % len(STYLES))
        x = F.normalize(features_of(draw_prompts(generator, [word] * SEEDS, choices, style)), dim=1)
        found.append(float(torch.pdist(x).mean()))
    return float(np.mean(found))


def _paraphrased(generator: Generator, art: Art, judge_by: Namer) -> dict[str, float]:
    """R@1 and R@5 by pixels, within the style, and by the classifier, for each kind."""
    row_of = {e.code: i for i, e in enumerate(art.emoji)}
    there = set(zip(art.emoji_of.tolist(), art.style_of.tolist(), strict=True))
    scores: dict[str, float] = {}
    groups: dict[str, list] = {}
    for p in paraphrases():
        groups.setdefault(p.language if p.language != "en" else f"en_{p.source}", []).append(p)
    everything: dict[str, list[np.ndarray]] = {}
    for kind, some in groups.items():
        wanted = [{row_of[c] for c in p.emoji} for p in some]
        styles = np.array(
            [
                next(
                    s % len(STYLES)
                    for s in range(i, i + len(STYLES))
                    if any((e, s % len(STYLES)) in there for e in fits)
                )
                for i, fits in enumerate(wanted)
            ]
        )
        choices = np.random.default_rng(13).integers(0, MEANINGS, len(some))
        pictures = draw_prompts(generator, [p.prompt for p in some], choices, styles)
        for judged, ranks in (
            ("paraphrase", nearest_emoji(pictures, styles, art, 5)),
            ("paraphrase_named", judge_by.ranked(features_of(pictures))),
        ):
            hit = np.array(
                [[n in fits for n in row] for row, fits in zip(ranks, wanted, strict=True)]
            )
            everything.setdefault(f"{judged}_{kind[:2]}", []).append(hit)
            scores |= {
                f"{judged}_{kind}_r1": hit[:, 0].mean(),
                f"{judged}_{kind}_r5": hit.any(1).mean(),
            }
    for name, parts in everything.items():
        hit = np.concatenate(parts)
        scores |= {f"{name}_r1": hit[:, 0].mean(), f"{name}_r5": hit.any(1).mean()}
    return {k: float(v) for k, v in scores.items()}


def scores_of(
    generator: Generator, art: Art, cache: Path, report: Report, count: int = 1000
) -> dict[str, float]:
    """Every score; `count` training pairs, all held-out pairs of known emoji.

    train_…, held_…: from names. …_r1, _r5: by pixels, within the style; …_named_r1, _r5: by the
    classifier, among all emoji. ceiling_…: of the real pictures, moved by a pixel and blurred.
    floor_…: of the drawn pictures and the prompts of others.
    """
    captions = captions_of(art)
    chinese = captions_of(art, translations(cache, "zh"), CHINESE)
    judge_by = namer(art, cache, report)
    random = np.random.default_rng(0)
    scores: dict[str, float] = {}
    for kind, rows in judged_rows(art, count).items():
        report("draw", 0, 1, {})
        emoji, real = art.emoji_of[rows], real_pictures(art, rows)
        choices = random.integers(0, MEANINGS, len(rows))
        names = [captions.names[int(e)] for e in emoji]
        pictures = draw_prompts(generator, names, choices, art.style_of[rows])
        scores |= {f"{kind}_{k}": v for k, v in judge(pictures, rows, art).items()}
        scores[f"{kind}_ssim"] = _ssim(pictures, real)
        features, other = features_of(pictures), features_of(real)
        hit = judge_by.ranked(features) == emoji[:, None]
        scores |= {f"{kind}_named_r1": hit[:, 0].mean(), f"{kind}_named_r5": hit.any(1).mean()}
        last = slice(0, LAST_FEATURES)  # those of places are none of a distribution's
        scores[f"{kind}_kernel_distance"] = kernel_distance(features[:, last], other[:, last])
        again = moved(real, 99)
        ceiling = judge_by.ranked(features_of(again))[:, 0] == emoji
        scores[f"ceiling_{kind}_named_r1"] = ceiling.mean()
        scores[f"ceiling_{kind}_r1"] = judge(again, rows, art)["r1"]
        shuffled = emoji[np.random.default_rng(14).permutation(len(emoji))]
        scores[f"floor_{kind}_named_r1"] = (judge_by.ranked(features)[:, 0] == shuffled).mean()
        if kind == "held":
            scores["held_copy_rate"] = copy_rate(pictures, art)
        rows = np.array([r for r in rows if int(art.emoji_of[r]) in chinese.names])
        names = [chinese.names[int(e)] for e in art.emoji_of[rows]]
        choices = random.integers(0, MEANINGS, len(rows))
        pictures = draw_prompts(generator, names, choices, art.style_of[rows])
        found = judge(pictures, rows, art)
        scores |= {f"{kind}_zh_{k}": found[k] for k in ("psnr", "r1", "r5")}
    scores |= _vague(generator, art, captions, min(count, 500))
    scores |= _paraphrased(generator, art, judge_by)
    scores["diversity"] = diversity(generator, captions)
    styles = np.bincount(art.style_of)
    scores["chance_r1"] = float(np.mean(1 / styles[art.style_of]))
    return {k: float(v) for k, v in scores.items()}


def _vague(generator: Generator, art: Art, captions: Captions, count: int) -> dict[str, float]:
    """How often the nearest real picture shows something that fits, for keywords and phrases that
    fit three emoji at least, and for phrases that training never saw, of two at least."""
    random, scores = np.random.default_rng(1), {}
    kinds: dict[str, Mapping[str, tuple[int, ...]]] = {
        "keyword": {w: fit for w, fit in captions.vague.items() if len(fit) > 2},
        "phrase": {w: fit for w, fit in captions.phrases.items() if len(fit) > 2},
        "new_phrase": captions.unseen,
    }
    for kind, prompts in kinds.items():
        words = [str(w) for w in random.choice(list(prompts), count)]
        style = random.integers(0, len(STYLES), count)
        pictures = draw_prompts(generator, words, random.integers(0, MEANINGS, count), style)
        near = nearest_emoji(pictures, style, art, 1)[:, 0]
        scores[f"{kind}_r1"] = float(
            np.mean([n in prompts[w] for n, w in zip(near, words, strict=True)])
        )
    return scores
