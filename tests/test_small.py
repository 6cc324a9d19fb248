"""`emoji-teacher` and `emoji-small` draw what English and Chinese prompts say, alike."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from genedge.runtime.errors import BadInput
from genedge.runtime.picture import over
from genedge.toolkit import generator
from genedge.toolkit.generator import resolve
from genedge.toolkit.prune import multiply_adds
from genedge.toolkit.zoo.emoji.model import TextSide
from genedge.toolkit.zoo.emoji.student import bounded

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "toolkit" / "zoo" / "emoji"
# The names of Unicode, and those of CLDR in Chinese.
NAMES = {
    "red apple": "红苹果",
    "rocket": "火箭",
    "dog face": "狗脸",
    "rabbit face": "兔子头",
    "grapes": "葡萄",
    "banana": "香蕉",
    "fire": "火焰",
    "rainbow": "彩虹",
    "guitar": "吉他",
    "snowman": "雪与雪人",
    "crown": "皇冠",
    "rose": "玫瑰",
    "elephant": "大象",
    "butterfly": "蝴蝶",
    "umbrella": "伞",
    "robot": "机器人",
}


@pytest.fixture(scope="module", params=["emoji-teacher", "emoji-small"])
def model(request):
    return resolve(request.param)


def white(model, prompt, style=""):
    return over(model.pixels(model.prepare(prompt, 1, style)), (255, 255, 255)).astype(float)


def nearest(drawn, real):
    return ((np.stack(drawn)[:, None] - np.stack(real)[None]) ** 2).mean((2, 3, 4)).argmin(1)


def test_held_out_pairs_are_nearer_to_their_own_picture_than_to_the_others(model):
    """Among 64 held-out pictures of all styles, chance would find 1 of 64."""
    with np.load(ROOT / "tests" / "data" / "held_out.npz") as held:
        prompts, real = held["prompts"][:64].tolist(), held["pictures"][:64].astype(float)
    real = real[..., :3] + 255 - real[..., 3:]
    drawn = [white(model, p) for p in prompts]
    assert (nearest(drawn, real) == np.arange(64)).mean() > 0.4


def test_chinese_names_draw_what_english_ones_draw(model):
    english = [white(model, name, "noto") for name in NAMES]
    chinese = [white(model, name, "noto") for name in NAMES.values()]
    assert (nearest(chinese, english) == np.arange(len(NAMES))).mean() >= 0.75


def test_the_small_one_has_a_tenth_of_the_decoders_work_and_the_text_sides_weights():
    teacher, small = resolve("emoji-teacher"), resolve("emoji-small")
    text = multiply_adds(teacher) - 732_161_792  # the decoder's: tests/test_scores.py
    assert multiply_adds(teacher) - text > 10 * (multiply_adds(small) - text)
    sides = [g.components[0].module for g in (teacher, small)]
    for (name, a), b in zip(sides[0].named_parameters(), sides[1].parameters(), strict=True):
        apart = (a - b).abs().max()
        assert apart == 0 if name != "embedding.weight" else 0 < apart < a.abs().max() / 200


def test_no_layer_of_a_bounded_text_side_leaves_its_bounds():
    torch.manual_seed(0)
    free = TextSide()
    with torch.no_grad():
        for parameter in free.parameters():
            parameter.mul_(3)
    held = bounded(free)
    tokens, meaning = torch.randint(1, 4096, (2, 32)), torch.eye(16)[:2]
    assert free(tokens, meaning).abs().max() > 6
    assert held(tokens, meaning).abs().max() == 6
    assert held.thing(held.pooled(tokens), meaning).max() == 12
    assert not free.bounded


def test_weights_that_the_wheel_does_not_carry_are_named(monkeypatch, tmp_path):
    module = importlib.import_module("genedge.toolkit.zoo.emoji.teacher")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(generator.importlib, "import_module", lambda name: module)
    with pytest.raises(BadInput, match="emoji-teacher are in genedge's repository, not in its"):
        resolve("emoji-teacher")
