"""`emoji-teacher` goes on, and `emoji` comes of a pruned one: all phases, a few steps of each."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from genedge.runtime.errors import BadInput
from genedge.toolkit import constructors
from genedge.toolkit.models import resolve
from genedge.toolkit.prune import prune
from genedge.toolkit.saved import load_saved
from genedge.toolkit.weights import grid_steps
from genedge.toolkit.zoo.emoji import choose, codes, int8, text, train
from genedge.toolkit.zoo.emoji.captions import captions_of
from genedge.toolkit.zoo.emoji.codes import judge_codes, table_of
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.model import Chooser, Clamp, Decoder
from genedge.toolkit.zoo.emoji.sharpen import fit_sharp

WIDTHS, THINGS = (32, 32, 32, 16), 4


def parts(bounded=False):
    text = Chooser(hidden=16, things=THINGS)
    return {"text": text, "image": Decoder(WIDTHS, (0, 1, 1, 0), 16, bounded=bounded)}


def of_student():
    return parts(bounded=True)


@pytest.fixture(scope="module")
def bundled():
    return resolve("emoji")


@pytest.fixture
def art(bundled, monkeypatch):
    """Squares, one emoji of five held out whole; and phases of a few steps of few pictures."""
    names = ("grinning face", "cat face", "dog face", "red circle", "held-out face")
    few = tuple(Emoji(f"1f60{i}", n, "Smileys", ("face",), n, i == 4) for i, n in enumerate(names))
    random, count = np.random.default_rng(0), 7 * len(names)
    pictures = np.zeros((count, 64, 64, 4), np.uint8)
    for i in range(count):
        top, left = i // 7 * 4, i % 7 * 3
        pictures[i, top : top + 44, left : left + 44] = (*random.integers(0, 255, 3), 255)
    which = np.arange(count)
    made = Art(pictures, few, which // 7, which % 7, which == 8)
    for module in (codes, int8):
        monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(int8, "PAIRS", 4)
    monkeypatch.setattr(train, "TOWARDS_INT8", train.TOWARDS_INT8 | {"steps": 2})
    monkeypatch.setattr(fit_sharp, "__kwdefaults__", fit_sharp.__kwdefaults__ | {"steps": 3})
    for name in ("TOGETHER", "BOUNDED", "AGAIN", "ALONE"):
        monkeypatch.setattr(train, name, getattr(train, name) | {"steps": 100})
    monkeypatch.setattr(train, "load_data", lambda cache, report: made)
    monkeypatch.setattr(train, "scores_of", lambda *a: {"r1": 0.5})
    monkeypatch.setattr(train, "namer", lambda *a: None)
    monkeypatch.setitem(constructors.CONSTRUCTORS, train.TEACHER, f"{__name__}:parts")
    monkeypatch.setitem(constructors.CONSTRUCTORS, train.STUDENT, f"{__name__}:of_student")
    return made


@pytest.fixture
def teacher(bundled):
    torch.manual_seed(0)
    known, fresh = bundled, parts()
    fresh["text"].set_codes(torch.randn(THINGS, 64, 4, 4))
    with torch.no_grad():
        for name in ("embedding", "conv1", "conv2"):
            getattr(fresh["text"], name).load_state_dict(
                getattr(known.components[0].module, name).state_dict()
            )
        for stage in fresh["image"].blocks[1:3]:
            torch.nn.init.normal_(stage[0].conv2.weight, std=0.1)
    components = tuple(replace(c, module=fresh[c.name].eval(), kept={}) for c in known.components)
    return replace(known, name="teacher", components=components, constructor=train.TEACHER)


def silent(*row):
    """No progress."""


def score(made, art):
    table = table_of(made.components[0].module, len(art.emoji), known(art))
    return judge_codes(made.components[1].module, table, art)["train_psnr"]


def known(art):
    return torch.from_numpy(captions_of(art).rows)


def test_a_teacher_goes_on_with_codes_and_decoder_and_keeps_what_it_understands(
    art, teacher, tmp_path
):
    out = train.train(tmp_path / "work", tmp_path, tmp_path / "out", silent, start=teacher)
    made = load_saved(out)
    assert score(made, art) > score(teacher, art) + 1
    before, after = (g.components[0].module.state_dict() for g in (teacher, made))
    moved = {n for n, v in before.items() if not torch.allclose(v, after[n], atol=0.02)}
    assert moved == {"write.weight"}
    assert made.golden == teacher.golden
    assert made.history[-1]["phases"][:2] == ["together", "sharpen"]
    again = train.train(tmp_path / "work", tmp_path, out, silent, force=True, start=teacher)
    assert load_saved(again).hash() == made.hash()  # finished phases are read
    with pytest.raises(BadInput, match="a run with other settings"):
        train.train(tmp_path / "work", tmp_path, tmp_path / "more", silent, start=made)


def test_a_run_that_ends_while_it_is_scored_can_be_run_again(art, teacher, tmp_path, monkeypatch):
    def stopped(*row):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "scores_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "work", tmp_path, tmp_path / "out", silent, start=teacher)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(train, "scores_of", lambda *a: {"r1": 0.5})
    out = train.train(tmp_path / "work", tmp_path, tmp_path / "out", silent, start=teacher)
    assert json.loads((out / "scores.json").read_text())["scores"] == {"r1": 0.5}


def whole():
    return {"text": Chooser(things=THINGS), "image": Decoder()}


def test_from_nothing_all_phases_make_a_teacher_that_decides(art, bundled, tmp_path, monkeypatch):
    def embeddings(said):
        return torch.stack([torch.randn(384, generator=seeded(len(t))) for t in said])

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    for module in (choose, text):
        monkeypatch.setattr(module, "teacher_embeddings", embeddings)
    for phase in (codes.fit_codes, text.fit_text, choose.fit_choice):
        monkeypatch.setattr(phase, "__kwdefaults__", phase.__kwdefaults__ | {"steps": 2})
    for name in ("REFINE", "TOGETHER"):
        monkeypatch.setattr(train, name, getattr(train, name) | {"steps": 2})
    words = train.Words(captions_of(art), (), {"kitty": (1,) * 16})
    monkeypatch.setattr(train, "load_words", lambda *a: words)
    monkeypatch.setattr(text, "judge_prompts", lambda *a: {})
    monkeypatch.setattr(train, "calibration_prompts", lambda *a: bundled.calibration)
    monkeypatch.setattr(train, "golden_prompts", lambda *a: bundled.golden)
    monkeypatch.setitem(constructors.CONSTRUCTORS, train.TEACHER, f"{__name__}:whole")
    made = load_saved(train.train(tmp_path / "work", tmp_path, tmp_path / "out", silent))
    assert made.history[-1]["phases"][:-1] == train.PHASES
    assert (made.name, made.constructor) == ("emoji-teacher", train.TEACHER)
    logs = {p.stem for p in (tmp_path / "work").glob("*.jsonl")}
    assert logs == set(train.PHASES)
    assert np.isfinite(score(made, art))


def test_a_pruned_teacher_becomes_a_bounded_student_on_int8_grids(art, teacher, tmp_path):
    small = prune(teacher, ratio=0.5, components=["image"])
    out = train.train_student(tmp_path / "work", tmp_path, tmp_path / "out", silent, start=small)
    made = load_saved(out)
    image = made.components[1]
    assert made.name == "emoji"
    assert image.kept == small.components[1].kept
    assert all(c.high < torch.inf for c in image.module.modules() if isinstance(c, Clamp))
    for component in made.components:
        for weight in component.module.parameters():
            assert weight.dim() < 2 or (grid_steps(weight.detach().flatten(1)) > 0).all()
    assert score(made, art) > score(small, art) + 1
    with pytest.raises(BadInput, match="emoji is a finished student"):
        train.train_student(tmp_path / "work", tmp_path, tmp_path / "more", silent, start=made)
    with pytest.raises(BadInput, match="emoji is no emoji-teacher"):
        train.train(tmp_path / "work", tmp_path, tmp_path / "more", silent, start=made)


def test_sharpening_asks_a_discriminator_as_well_and_leaves_the_codes(art, teacher, tmp_path):
    table = table_of(teacher.components[0].module, len(art.emoji), known(art))
    start, kept = teacher.components[1].module, table.clone()
    rows = []
    fit_sharp("sharpen", art, start, table, tmp_path, lambda *r: rows.append(r), steps=200)
    first, last = rows[0][3], rows[-1][3]
    assert last["picture"] < first["picture"]
    assert last["critic"] < 1.5  # 2 where it can not tell art from what is drawn
    assert all(np.isfinite(list(last.values())))
    assert torch.equal(table, kept)
