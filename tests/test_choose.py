"""The text side decides: one thing is drawn where several would fit."""

import numpy as np
import pytest
import torch
from torch import nn

from genedge.runtime.errors import BadInput
from genedge.toolkit.models import resolve
from genedge.toolkit.zoo.emoji import choose
from genedge.toolkit.zoo.emoji.captions import captions_of, load_trained, train_tokenizer
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.model import MARGIN, MOST_LIKELY, SLACK, Chooser, TextSide
from genedge.toolkit.zoo.emoji.text import PromptBatches, text_codes
from genedge.toolkit.zoo.emoji.train import train_student

SIZES = {"vocabulary": 60, "embedding": 8, "width": 16, "hidden": 16, "things": 5}


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    said = (("1f600", "grinning face", ("happy", "smile")), ("1f603", "beaming face", ("happy",)),
            ("1f63a", "cat face", ("happy", "animal")), ("1f436", "dog face", ("animal",)))  # fmt: skip
    emoji = tuple(Emoji(c, n, "Smileys & Emotion", tags, c, False) for c, n, tags in said)
    none = np.zeros((0, 64, 64, 4), np.uint8)
    art = Art(none, emoji, np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))
    captions = captions_of(art)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([captions], [], path)
    codes = torch.randn(len(emoji), 64, 4, 4, generator=torch.Generator().manual_seed(0))
    return PromptBatches(captions, load_trained(path), codes, 0, wider={"kitty": (2,) * 16})


def test_the_likeliest_silences_the_rest_and_near_ties_share():
    chooser = Chooser(**SIZES)
    likely = torch.tensor(
        [[9.0, 8.0, 3.0, -1.0, 0.0], [9.0, 8.9, 3.0, -1.0, 0.0], [MOST_LIKELY + 5, 1, 2, 3, 4.0]]
    )
    clear, near, beyond = chooser.chosen(likely).detach()
    assert torch.allclose(clear, torch.tensor([MARGIN, 0, 0, 0, 0]), atol=1e-5)
    assert torch.allclose(near, torch.tensor([MARGIN, MARGIN + SLACK - 0.1, 0, 0, 0]), atol=1e-5)
    assert torch.allclose(beyond, torch.tensor([MARGIN, 0, 0, 0, 0]), atol=1e-5)


def test_roundings_on_the_way_do_not_move_what_is_written():
    chooser = Chooser(**SIZES)
    likely = torch.tensor([[9.0, 6.0, 3.0, 1.0, 0.0]])
    clear = chooser.chosen(likely)
    for error in (-SLACK, SLACK):
        with torch.no_grad():
            chooser.most.bias.fill_(MARGIN + SLACK + error)
        assert torch.allclose(chooser.chosen(likely), clear, atol=1e-5)


def test_what_is_written_is_the_code_of_one_thing():
    torch.manual_seed(0)
    chooser = Chooser(**SIZES).eval()
    nn.init.normal_(chooser.hidden.weight, std=3.0)
    tokens, meaning = torch.randint(1, 60, (40, 32)), torch.eye(16)[torch.arange(40) % 16]
    with torch.no_grad():
        likely = chooser.likely(chooser.pooled(tokens), meaning)
        first, second = likely.clamp(0, MOST_LIKELY).topk(2, 1).values.unbind(1)
        clear = first - second > MARGIN + SLACK
        assert clear.sum() > 3
        written = chooser(tokens, meaning)[clear]
    assert torch.allclose(written, chooser.codes()[likely.argmax(1)[clear]], atol=1e-4)


def test_a_chooser_begins_with_what_a_text_side_hears(batches):
    torch.manual_seed(0)
    text = TextSide(embedding=24, width=32, hidden=600, things=40, bounded=True).eval()
    made = choose.chooser_of(text, batches)
    tokens = batches.tokens(["cat face", "dog face"])
    with torch.no_grad():
        assert torch.equal(made.pooled(tokens), text.pooled(tokens))
    assert torch.allclose(made.codes(), batches.codes, atol=1e-5)


def test_other_codes_are_written_for_the_same_things(batches):
    made = choose.chooser_of(TextSide(embedding=24, width=32, hidden=600, things=40), batches)
    weights = made.hidden.weight.clone()
    made.set_codes(-batches.codes)
    assert torch.allclose(made.codes(), -batches.codes, atol=1e-5)
    assert torch.equal(made.hidden.weight, weights)


def test_the_phase_learns_names_and_decides_where_several_fit(batches, tmp_path, monkeypatch):
    def embeddings(texts):
        return nn.functional.normalize(
            torch.tensor([[len(t), ord(t[0]), 1.0] for t in texts]), dim=1
        )

    monkeypatch.setattr(choose, "teacher_embeddings", embeddings)
    torch.manual_seed(0)
    text = TextSide(embedding=24, width=32, hidden=64, things=40, bounded=True).eval()
    made = choose.fit_choice(batches, text, tmp_path, lambda *a: None, steps=150, rate=3e-3)
    names = [batches.captions.names[r] for r in range(4)]
    written = text_codes(made, batches, names, np.arange(4))
    apart = (written[:, None] - batches.codes[None]).square().mean((2, 3, 4))
    assert apart.argmin(1).tolist() == [0, 1, 2, 3]
    several = text_codes(made, batches, ["happy"] * 16, np.arange(16))
    apart = (several[:, None] - batches.codes[None]).square().mean((2, 3, 4))
    assert (apart.amin(1) < 0.01).float().mean() > 0.7  # one thing, not a mean
    assert set(apart.argmin(1).tolist()) <= {0, 1, 2}


def test_a_student_is_not_trained_without_a_pruned_teacher(tmp_path):
    with pytest.raises(BadInput, match="name one by --start"):
        train_student(tmp_path, tmp_path, tmp_path / "out", lambda *a: None)
    with pytest.raises(BadInput, match="emoji is a finished student"):
        train_student(tmp_path, tmp_path, tmp_path / "out", lambda *a: None, start=resolve("emoji"))
