"""Codes and decoder learn together, within the bounds of what a text side can write."""

import numpy as np
import pytest
import torch

from genedge.toolkit.models import resolve
from genedge.toolkit.zoo.emoji import codes as phase
from genedge.toolkit.zoo.emoji.codes import draw, fit_codes, judged_rows
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.judge import judge
from genedge.toolkit.zoo.emoji.model import BOUNDS, Clamp


@pytest.fixture(scope="module")
def art():
    names = ("grinning face", "cat face", "dog face", "red circle", "held-out face")
    few = tuple(Emoji(f"1f60{i}", n, "Smileys", (), n, i == 4) for i, n in enumerate(names))
    random = np.random.default_rng(0)
    pictures = np.zeros((len(few) * 7, 64, 64, 4), np.uint8)
    for i in range(len(pictures)):
        top, left, colour = i // 7 * 4, i % 7 * 3, random.integers(0, 255, 3)
        pictures[i, top : top + 44, left : left + 44] = (*colour, 255)
    which = np.arange(len(pictures))
    return Art(pictures, few, which // 7, which % 7, which == 8)


def test_codes_and_decoder_learn_together_within_their_bounds(art, tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "BATCH", 9)
    low, high = BOUNDS["code"]
    known = resolve("emoji").components[1].module
    bounds = [c.high for c in known.modules() if isinstance(c, Clamp)]
    start = known, torch.full((len(art.emoji), 64, 4, 4), high + 1.0)
    start[1][:4] = torch.randn(4, 64, 4, 4, generator=torch.Generator().manual_seed(0))

    def fit(steps):
        return fit_codes(
            art,
            tmp_path,
            lambda *row: None,
            start=start,
            phase="together",
            steps=steps,
            rates=(1e-3, 1e-2),
            noise=0.1,
        )

    decoder, table = fit(100)
    assert table.min() >= low
    assert table.max() <= high
    assert not torch.allclose(table[:4], start[1][:4], atol=0.05)
    assert torch.equal(table[4], torch.full((64, 4, 4), high))  # nobody has its pictures
    assert [c.high for c in decoder.modules() if isinstance(c, Clamp)] == bounds
    rows = judged_rows(art, 20)["train"]
    style = torch.from_numpy(art.style_of[rows])
    drawn = [
        judge(draw(net.eval(), codes[torch.from_numpy(art.emoji_of[rows])], style), rows, art)
        for net, codes in (start, (decoder, table))
    ]
    assert drawn[1]["psnr"] > drawn[0]["psnr"] + 2
    again, same = fit(100)  # finished: read from the folder
    assert torch.equal(same, table)
    assert all(map(torch.equal, again.state_dict().values(), decoder.state_dict().values()))


def test_codes_of_a_rate_of_0_stay_while_the_decoder_gets_nearer_in_decibels(
    art, tmp_path, monkeypatch
):
    monkeypatch.setattr(phase, "BATCH", 9)
    known, random = resolve("emoji").components[1].module, torch.Generator().manual_seed(0)
    start = known, torch.randn(len(art.emoji), 64, 4, 4, generator=random)
    more = {"start": start, "steps": 40, "rates": (1e-3, 0.0), "noise": 0.0}

    def fit(name, **also):
        return fit_codes(art, tmp_path, lambda *row: None, phase=name, **more, **also)

    (plain, table), (nearer, same) = fit("plain"), fit("nearer", decibels=0.1)
    assert torch.equal(table, start[1])
    assert torch.equal(same, start[1])
    scores = [phase.judge_codes(d, table, art, 20)["train_psnr"] for d in (known, plain, nearer)]
    assert scores[0] + 1 < scores[1] < scores[2]
