"""Writes what raises held-out pairs and what does not: `make bench-regularise`.

    python tests/benchmarks/regularise.py docs/regularise.md

A held-out pair is an emoji in a style in which training never saw it. The text side says nothing of
styles, so what it takes is the decoder's: each row trains an untrained small decoder, and the codes
of the names as `emoji-teacher` writes them, on the art, with one regulariser. Rows are kept in
build/regularise: a second run goes on.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from small_decoder import SmallDecoder
from torch import Tensor, nn

from genedge.toolkit.models import resolve
from genedge.toolkit.train import Average, falling, fast, set_rates
from genedge.toolkit.zoo.emoji.captions import captions_of
from genedge.toolkit.zoo.emoji.codes import (
    BATCH,
    batch_rows,
    draw,
    judged_rows,
    one_hot,
    pictures_of,
)
from genedge.toolkit.zoo.emoji.data import STYLES, Art
from genedge.toolkit.zoo.emoji.judge import judge
from genedge.toolkit.zoo.emoji.losses import picture_loss
from genedge.toolkit.zoo.emoji.text import codes_of_names
from genedge.toolkit.zoo.emoji.train import load_data

CACHE, WORK = Path(".cache"), Path("build/regularise")
STEPS = int(os.environ.get("REGULARISE_STEPS", 1200))


@dataclass(frozen=True)
class Regulariser:
    """noise: largest standard deviation of what is added to a code. decay: of the decoder's weights
    (AdamW). dropped: share of a code's channels that are 0. style: standard deviation of what is
    added to the style's vector. rank: principal components of the codes that are kept, 0: all.
    shrink: weight of the codes' mean square. read: weight of the code that a net, trained on the
    art, reads from a drawing in a style that the emoji has no art of."""

    noise: float = 0.0
    decay: float = 0.0
    dropped: float = 0.0
    style: float = 0.0
    rank: int = 0
    shrink: float = 0.0
    read: float = 0.0


ROWS = {
    "none": Regulariser(),
    "noise on codes 0.3": Regulariser(noise=0.3),
    "noise on codes 0.8": Regulariser(noise=0.8),
    "weight decay 0.1": Regulariser(decay=0.1),
    "a tenth of a code's channels dropped": Regulariser(dropped=0.1),
    "noise on styles 0.3": Regulariser(style=0.3),
    "codes of 128 principal components": Regulariser(rank=128),
    "small codes (0.02 × mean square)": Regulariser(shrink=0.02),
    "codes read back from missing pairs": Regulariser(read=0.05),
    "read back, and noise on codes 0.8": Regulariser(noise=0.8, read=0.05),
}


class Reader(nn.Module):
    """Picture and style → code: what an emoji is, whatever its style."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 32, 64, 128, 128)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.style = nn.Linear(len(STYLES), 128)
        self.last = nn.Conv2d(128, 64, 3, padding=1)

    def forward(self, picture: Tensor, style: Tensor) -> Tensor:
        x = picture
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        code: Tensor = self.last(x + self.style(style)[:, :, None, None])
        return code


def fitted(art: Art, start: Tensor, how: Regulariser) -> dict[str, float]:
    """Scores after STEPS of training, by the moving average of the weights."""
    torch.manual_seed(0)
    decoder, reader = SmallDecoder().to(memory_format=torch.channels_last), Reader()  # type: ignore[call-overload]
    table = nn.Parameter(start.clone())
    groups = [
        {"params": list(decoder.parameters()), "lr": 1.5e-3, "base": 1.5e-3},
        {"params": [table], "lr": 2e-3, "base": 2e-3, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=how.decay)
    reading = torch.optim.Adam(reader.parameters(), lr=1e-3)
    rows = np.flatnonzero(art.train)
    known = torch.from_numpy(np.unique(art.emoji_of[rows]))
    flat = start[known].flatten(1)
    centre = flat.mean(0)
    basis = torch.linalg.svd(flat - centre, full_matrices=False)[2][: how.rank or None]

    def codes(chosen: Tensor) -> Tensor:
        if not how.rank:
            return table[chosen]
        along = (table[chosen].flatten(1) - centre) @ basis.T
        return (along @ basis + centre).view(-1, *table.shape[1:])

    def live() -> dict[str, Tensor]:
        return {**dict(decoder.named_parameters()), "codes": table}

    average = Average(live())
    pictures, where = pictures_of(art, rows), {int(r): i for i, r in enumerate(rows)}
    seen = np.zeros((len(start), len(STYLES)), bool)
    seen[art.emoji_of[rows], art.style_of[rows]] = True
    for step in range(STEPS):
        random = np.random.default_rng((3, step))
        torch.manual_seed(step)
        chosen = batch_rows(step, rows, BATCH, 0)
        target = pictures[[where[int(r)] for r in chosen]].float() / 255
        target = target.to(memory_format=torch.channels_last)
        emoji = art.emoji_of[chosen]
        style = one_hot(torch.from_numpy(art.style_of[chosen]))
        code = codes(torch.from_numpy(emoji))
        given = code + how.noise * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(code)
        given = F.dropout2d(given, how.dropped) if how.dropped else given
        with fast():
            raw = decoder.unclamped(given, style + how.style * torch.randn_like(style))
        loss = picture_loss(raw.float(), target) + how.shrink * code.square().mean()
        if how.read:
            with fast():
                real = F.mse_loss(reader(target, style).float(), code.detach())
            reading.zero_grad()
            real.backward()
            reading.step()
            missing = [
                random.choice(np.flatnonzero(~seen[e])) if not seen[e].all() else 0 for e in emoji
            ]
            other = one_hot(torch.from_numpy(np.array(missing)))
            reader.requires_grad_(False)
            with fast():
                drawn = decoder.unclamped(code, other).clamp(0, 1)
                loss = loss + how.read * F.mse_loss(reader(drawn, other).float(), code.detach())
            reader.requires_grad_(True)
        set_rates(optimizer, falling(step, STEPS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(live())
    with torch.no_grad():
        kept = dict(average.tensors)
        table.copy_(kept.pop("codes"))
        decoder = copy.deepcopy(decoder).eval()
        decoder.load_state_dict(kept)
        scores = {}
        for kind, judged in judged_rows(art, 1000).items():
            drawings = draw(
                decoder,
                codes(torch.from_numpy(art.emoji_of[judged])),
                torch.from_numpy(art.style_of[judged]),
            )
            scores |= {f"{kind}_{k}": v for k, v in judge(drawings, judged, art).items()}
    return scores


def main(page: Path) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    art = load_data(CACHE, lambda *_: None)
    teacher = resolve("emoji-teacher")
    assert teacher.tokenizer is not None
    with torch.no_grad():
        start = codes_of_names(teacher.components[0].module, captions_of(art), teacher.tokenizer)  # type: ignore[arg-type]
    lines = [
        "# Regularisers and held-out pairs",
        "",
        "Written by `make bench-regularise`. An untrained small decoder, and the codes of the names as `emoji-teacher`",
        f"writes them, both trained on the art for {STEPS:,} steps of {BATCH} pictures; drawn from the codes, without prompts. 1,000",
        "training pairs, all held-out pairs; one run of each row.",
        "",
        "| | PSNR | R@1 | held-out PSNR | held-out R@1 | held-out R@5 | held-out sharpness |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, how in ROWS.items():
        path = WORK / f"{'-'.join(f'{k}{v}' for k, v in asdict(how).items() if v) or 'none'}.json"
        if not path.exists():
            path.write_text(json.dumps(fitted(art, start, how)))
        row = json.loads(path.read_text())
        shown = ("train_psnr", "train_r1", "held_psnr", "held_r1", "held_r5", "held_sharpness")
        digits = (2, 3, 2, 3, 3, 2)
        cells = [f"{row[k]:.{d}f}" for k, d in zip(shown, digits, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    page.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
