"""One code per emoji, learned together with the decoder that draws it: the teacher's first phases
and the one after its text side decides, and the student's first.

Generative latent optimisation (Bojanowski et al., arXiv 1707.05776): no encoder; the code of an
emoji is a parameter, shared by all its styles, and gradients reach it through the decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.toolkit.train import Average, Report, adam, falling, fast, run_phase, set_rates

from .data import STYLES, Art
from .judge import judge
from .losses import mean_decibels, picture_loss
from .model import BOUNDS, CODE_CHANNELS, FIRST_BLOCKS, Chooser, Decoder, Stages

STEPS, BATCH = 24_000, 32
CODE_NOISE = 0.8  # largest, in units of the codes' standard deviation, which starts at 1


class Codes(nn.Module):
    """One code per emoji of the art, (N, 64, 4, 4); held-out emoji have a row that nothing uses."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(start.clone())


def pictures_of(art: Art, rows: np.ndarray) -> Tensor:
    """uint8 (N, 4, 64, 64) of the art's rows."""
    return torch.from_numpy(np.ascontiguousarray(art.pictures[rows].transpose(0, 3, 1, 2)))


def starting_codes(art: Art) -> Tensor:
    """Principal components of the 4×4 cells of small pictures, all styles side by side.

    float32 (emoji, 64, 4, 4), overall standard deviation 1. A style that an emoji lacks, or that
    is held out, is filled by the mean of the style.
    """
    rows = np.flatnonzero(art.train)
    small = F.avg_pool2d(pictures_of(art, rows).float() / 255, 4)  # (N, 4, 16, 16)
    style = torch.from_numpy(art.style_of[rows])
    emoji = torch.from_numpy(art.emoji_of[rows])
    mean = torch.stack([small[style == s].mean(0) for s in range(len(STYLES))])
    table = mean[None].repeat(len(art.emoji), 1, 1, 1, 1)
    table[emoji, style] = small
    cells = table.flatten(1, 2).unfold(2, 4, 4).unfold(3, 4, 4)  # (E, 28, 4, 4, 4, 4)
    cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (E, 4, 4, 448)
    known = cells[torch.unique(emoji)].flatten(0, 2)
    centre = known.mean(0)
    _, spread, basis = torch.linalg.svd(known - centre, full_matrices=False)
    spread = spread[:CODE_CHANNELS] / len(known) ** 0.5
    codes = (cells - centre) @ basis[:CODE_CHANNELS].T
    codes = codes / spread.sqrt() / spread.sqrt().square().mean().sqrt()
    first: Tensor = codes.permute(0, 3, 1, 2).contiguous()
    return first


def one_hot(style: Tensor) -> Tensor:
    """int64 (B,) → float32 (B, 7)."""
    return F.one_hot(style, len(STYLES)).float()


def to_bytes(picture: Tensor) -> Tensor:
    """float (B, 4, H, W) → uint8; colour never above alpha, as premultiplied colour can not be."""
    values = (picture.clamp(0, 1) * 255).round()
    return torch.cat([torch.minimum(values[:, :3], values[:, 3:]), values[:, 3:]], 1).to(
        torch.uint8
    )


def table_of(text: Chooser, emoji: int, known: Tensor) -> Tensor:
    """float32 (emoji, 64, 4, 4): the codes that a Chooser writes, by emoji.

    known: int64 (things,), the emoji that each of its things is. Others have codes of 0.
    """
    codes = text.codes()
    table = codes.new_zeros(emoji, *codes.shape[1:])
    table[known] = codes
    return table


@torch.no_grad()
def draw(decoder: Stages, codes: Tensor, style: Tensor) -> Tensor:
    """uint8 (N, 4, 64, 64) of codes (N, 64, 4, 4) and styles (N,), in pieces of 64."""
    return torch.cat(
        [
            to_bytes(decoder(c, one_hot(s)))
            for c, s in zip(codes.split(64), style.split(64), strict=True)
        ]
    )


def judged_rows(art: Art, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows to judge: `count` training pairs, and every held-out pair of a known emoji."""
    train = np.flatnonzero(art.train)
    chosen = np.random.default_rng(seed).choice(train, min(count, len(train)), replace=False)
    return {"train": np.sort(chosen), "held": np.flatnonzero(art.held_out & ~art.unseen)}


def judge_codes(decoder: Stages, table: Tensor, art: Art, count: int = 500) -> dict[str, float]:
    """Scores of what is drawn of codes, float32 (emoji, 64, 4, 4): as judge_prompts has of names."""
    scores: dict[str, float] = {}
    for name, rows in judged_rows(art, count).items():
        code = table[torch.from_numpy(art.emoji_of[rows])]
        drawn = draw(decoder, code, torch.from_numpy(art.style_of[rows]))
        scores |= {f"{name}_{k}": v for k, v in judge(drawn, rows, art).items()}
    return scores


def batch_rows(step: int, rows: np.ndarray, batch: int, seed: int) -> np.ndarray:
    """The rows of one step: each epoch another permutation, so that a resumed run goes on alike."""
    per_epoch = len(rows) // batch
    epoch, i = divmod(step, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    return rows[order[i * batch : (i + 1) * batch]]


def batches_of(art: Art, seed: int) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Training pairs by step: pictures float32 (BATCH, 4, 64, 64) in [0, 1], styles one-hot (BATCH, 7),
    emoji int64 (BATCH,). Pictures are in the memory format of channels_last, as decoders learn."""
    rows = np.flatnonzero(art.train)
    pictures, where = pictures_of(art, rows), {int(r): i for i, r in enumerate(rows)}

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = batch_rows(step, rows, BATCH, seed)
        target = pictures[[where[int(r)] for r in chosen]].float() / 255
        target = target.to(memory_format=torch.channels_last)
        style = one_hot(torch.from_numpy(art.style_of[chosen]))
        return target, style, torch.from_numpy(art.emoji_of[chosen])

    return batch


def jittered(codes: Tensor, noise: float, seed: int) -> Tensor:
    """Codes (B, 64, 4, 4) with noise of a standard deviation of their own each, at most `noise`, and
    within what a text side can write."""
    generator = torch.Generator().manual_seed(seed)
    size = noise * torch.rand((len(codes), 1, 1, 1), generator=generator)
    moved = codes + size * torch.randn(codes.shape, generator=generator)
    return moved.clamp(*BOUNDS["code"])


def fit_codes(
    art: Art,
    work: Path,
    report: Report,
    *,
    start: tuple[Decoder, Tensor] | None = None,
    phase: str = "codes",
    steps: int = STEPS,
    rates: tuple[float, float] = (1.2e-3, 4e-3),
    noise: float = CODE_NOISE,
    flat: float = 0.5,
    decibels: float = 0.0,
    seed: int = 0,
) -> tuple[Decoder, Tensor]:
    """Trains decoder and codes; returns their averages. Resumes from `work`.

    start: a decoder and codes to go on from, float32 (emoji, 64, 4, 4); codes stay within
    BOUNDS["code"]. rates: of decoder and codes, for `flat` of the steps, then falling; codes of a
    rate of 0 stay. noise: largest standard deviation of what is added to a code. decibels: weight of
    mean_decibels, beside picture_loss.
    """
    torch.manual_seed(seed)
    decoder, table = start or (Decoder(blocks=FIRST_BLOCKS), starting_codes(art))
    decoder = copy.deepcopy(decoder).train().requires_grad_(True)
    decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    codes = Codes(table)
    optimizer = adam((decoder.parameters(), rates[0]), (codes.parameters(), rates[1]))

    def live() -> dict[str, Tensor]:
        return {**dict(decoder.named_parameters()), "codes": codes.table}

    average = Average(live())
    batch = batches_of(art, seed)

    def one_step(step: int) -> dict[str, Tensor]:
        target, style, emoji = batch(step)
        code = jittered(codes.table[emoji], noise, seed * 1_000_003 + step)
        with fast():
            raw = decoder.unclamped(code, style)
        loss = picture_loss(raw.float(), target)
        if decibels:
            loss = loss + decibels * mean_decibels(raw.float(), target)
        set_rates(optimizer, falling(step, steps, flat))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(live())
        return {"loss": loss.detach()}

    def averaged() -> tuple[Decoder, Tensor]:
        mean, tensors = copy.deepcopy(decoder).eval(), dict(average.tensors)
        table = tensors.pop("codes").clamp(*BOUNDS["code"])
        mean.load_state_dict({**mean.state_dict(), **tensors})  # clamps have no mean
        return mean, table

    state = {"decoder": decoder, "codes": codes, "optimizer": optimizer, "average": average}
    run_phase(
        phase,
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_codes(*averaged(), art),
    )
    return averaged()


def grown(decoder: Decoder, seed: int = 0) -> Decoder:
    """The decoder with more residual blocks at 8×8, 16×16 and 32×32, which at first add nothing.

    The codes settle sooner with the small decoder; the large one then draws what they can not hold.
    """
    torch.manual_seed(seed)
    large = Decoder()
    missing, unexpected = large.load_state_dict(decoder.state_dict(), strict=False)
    if unexpected or not all(name.startswith("blocks.") for name in missing):
        raise ValueError(f"the decoders differ in more than blocks: {missing}, {unexpected}")
    return large.eval()


@torch.no_grad()
def widened(decoder: Decoder, seed: int = 0) -> Decoder:
    """A decoder of the default widths that draws what this narrower one draws.

    Old channels get nothing from new ones; new ones start at random and are heard from as soon as
    training lets them.
    """
    torch.manual_seed(seed)
    large = Decoder()
    old, new = decoder.state_dict(), large.state_dict()
    for name, value in new.items():
        known = old[name]
        if value.shape == known.shape:
            value.copy_(known)
        elif value.dim() < 4:
            value[: len(known)] = known
        elif name.startswith("blocks") and ("scale" in name or "shift" in name):
            value[: known.shape[0], : known.shape[1]] = known
        else:
            value[: known.shape[0]] = 0
            value[: known.shape[0], : known.shape[1]] = known
    large.load_state_dict(new)
    return large.eval()
