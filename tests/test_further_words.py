"""The phase that gives words beyond the captions one meaning each, and leaves names as they are."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from genedge.runtime.tokenizer import PromptTokenizer
from genedge.toolkit.zoo.emoji import words as module
from genedge.toolkit.zoo.emoji.captions import captions_of
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.model import MEANINGS, TextSide
from genedge.toolkit.zoo.emoji.text import PromptBatches, codes_of_names
from genedge.toolkit.zoo.emoji.words import Marks, fit_words, judge_words, to_fitting

NAMES = {"cat face": ("cat", "pet"), "dog face": ("dog", "pet"), "brown bear": ("grizzly",)}
FURTHER = {"feline": "cat face", "canine": "dog face", "bruin": "brown bear", "hound": "dog face"}


@pytest.fixture
def batches(monkeypatch):
    few = tuple(
        Emoji(str(i), name, "Animals & Nature", tags, str(i), False)
        for i, (name, tags) in enumerate(NAMES.items())
    )
    none = np.zeros(0, np.int64)
    captions = captions_of(
        Art(np.zeros((0, 64, 64, 4), np.uint8), few, none, none, none.astype(bool))
    )
    said = sorted({w for n, t in NAMES.items() for w in (*n.split(), *t)} | set(FURTHER))
    known = Tokenizer(models.WordLevel({"?": 1} | {w: i + 2 for i, w in enumerate(said)}, "?"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    wider = {w: (list(NAMES).index(n),) * MEANINGS for w, n in FURTHER.items()}
    codes = torch.randn(3, 64, 4, 4, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(
        module, "teacher_embeddings", lambda texts: torch.eye(8)[[len(t) % 8 for t in texts]]
    )
    return PromptBatches(captions, PromptTokenizer(known, 32, 0), codes, 1, (), wider)


def test_marks_measure_distances_and_find_what_fits():
    codes = torch.zeros(6, 2, 2, 1)
    codes[[1, 3, 5]] = torch.tensor([[0.0] * 4, [3.0, 0, 0, 0], [0, 4.0, 0, 0]]).view(3, 2, 2, 1)
    marks = Marks(np.array([1, 3, 5]), codes)
    squared = marks.distances(torch.tensor([[3.0, 4.0, 0, 0]]))
    assert squared[0].tolist() == pytest.approx([25, 16, 9])
    assert marks.places([[3], {5, 1}]).tolist() == [[1, 1, 1, 1], [0, 2, 0, 0]]
    near, unlike = to_fitting(squared, marks.places([[3, 5]]), 4)
    assert float(near) == pytest.approx((9 / 4 + 1e-3) ** 0.5)
    assert float(unlike) == pytest.approx(
        -float(torch.log_softmax(-squared / module.TEMPERATURE, 1)[0, 2])
    )


def test_pieces_of_like_length_are_pooled_as_the_whole_is():
    torch.manual_seed(0)
    text = TextSide(vocabulary=20, embedding=8, width=16, hidden=16, things=16)
    tokens = torch.randint(1, 20, (9, 12)) * (torch.arange(12) < torch.arange(2, 11)[:, None])
    assert torch.allclose(module._pooled(text, tokens), text.pooled(tokens), atol=1e-6)


def test_further_words_are_learned_and_names_stay(batches, tmp_path):
    torch.manual_seed(0)
    text = TextSide(vocabulary=32, embedding=16, width=32, hidden=64, things=16, bounded=True)
    batches.codes = 4 * codes_of_names(text, batches.captions, batches.tokenizer)
    batches.codes += 0.5 * torch.randn(batches.codes.shape)  # marks that names learn to meet
    marks = Marks(batches.captions.rows, batches.codes)
    before = judge_words(text.eval(), batches, marks)
    reports = []
    made = fit_words(
        batches, text, tmp_path, lambda *args: reports.append(args), steps=120, rate=3e-3
    )
    after = judge_words(made, batches, marks)
    assert after["wide_r1"] > max(0.9, before["wide_r1"])
    assert after["names_moved"] < before["names_moved"] / 2
    assert reports[-1][:3] == ("words", 120, 120)
    again = fit_words(batches, text, tmp_path, lambda *_: None, steps=120, rate=3e-3)
    for mine, other in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)  # a finished phase is read, not run again
