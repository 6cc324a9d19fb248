"""`emoji-teacher` and `emoji` draw what English and Chinese prompts say, alike."""

import copy
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genedge.runtime.errors import BadInput
from genedge.runtime.picture import over
from genedge.toolkit import models
from genedge.toolkit.generator import golden_seed
from genedge.toolkit.models import resolve
from genedge.toolkit.weights import grid_steps
from genedge.toolkit.zoo.emoji.choose import decided
from genedge.toolkit.zoo.emoji.data import Art, Emoji
from genedge.toolkit.zoo.emoji.int8 import fit_int8, kept_loss, pairs_of
from genedge.toolkit.zoo.emoji.model import BOUNDS, Chooser, Clamp, Decoder, TextSide
from genedge.toolkit.zoo.emoji.robust import between, silenced, tightened
from genedge.toolkit.zoo.emoji.train import TOWARDS_INT8

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


@pytest.fixture(scope="module", params=["emoji-teacher", "emoji"])
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


def test_the_student_has_a_tenth_of_the_decoders_work_and_weights():
    code, style, found = torch.zeros(1, 64, 4, 4), torch.zeros(1, 7), []
    for name in ("emoji-teacher", "emoji"):
        decoder = resolve(name).components[1].module
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert decoder(code, style).shape == (1, 4, 64, 64)
        found.append((counter.get_total_flops(), sum(p.numel() for p in decoder.parameters())))
    assert found[0][0] > 10 * found[1][0]
    assert found[0][1] > 10 * found[1][1]


def test_no_layer_of_a_bounded_text_side_leaves_its_bounds():
    torch.manual_seed(0)
    free = TextSide()
    with torch.no_grad():
        for parameter in free.parameters():
            parameter.mul_(3)
    held = copy.deepcopy(free)
    held.bounded = True
    tokens, meaning = torch.randint(1, 4096, (2, 32)), torch.eye(16)[:2]
    assert free(tokens, meaning).abs().max() > 6
    assert held(tokens, meaning).abs().max() == BOUNDS["code"][1]
    assert held.thing(held.pooled(tokens), meaning).max() == BOUNDS["things"][1]
    assert not free.bounded


def small_decoder(**more):
    torch.manual_seed(0)
    decoder = Decoder((16, 16, 16, 16), (0, 1, 1, 1), 16, **more).eval()
    for stage in decoder.blocks[1:]:
        torch.nn.init.normal_(stage[0].conv2.weight, std=0.1)
    return decoder


def test_wide_clamps_change_nothing_and_tightened_ones_hold_what_a_share_of_pictures_needs():
    free, codes = small_decoder(), torch.randn(200, 64, 4, 4)
    wide, style = small_decoder(bounded=True), torch.eye(7)[torch.arange(200) % 7]
    with torch.no_grad():
        assert torch.equal(wide(codes, style), free(codes, style))
        held = tightened(wide, codes, share=0.25)
        seen = []
        held.clamps[0].register_forward_hook(lambda m, inputs, y: seen.append((inputs[0], y)))
        held(codes, style)
    before, after = seen[0]
    assert after.max() == held.clamps[0].high
    assert 0.1 < (before.flatten(1).amax(1) < held.clamps[0].high).float().mean() < 0.4
    assert all(m.low <= 0 < m.high < torch.inf for m in held.modules() if isinstance(m, Clamp))
    assert wide.clamps[0].high == torch.inf


def test_bounds_are_saved_with_the_weights():
    codes, style = torch.randn(9, 64, 4, 4), torch.eye(7)[:1].expand(9, 7)
    held, other = tightened(small_decoder(), codes, share=0.2), small_decoder(bounded=True)
    with torch.no_grad():
        assert not torch.equal(other(codes, style), held(codes, style))
        other.load_state_dict(held.state_dict())
        assert torch.equal(other(codes, style), held(codes, style))


def test_weights_on_dead_channels_become_0_and_change_no_picture():
    torch.manual_seed(0)
    decoder = Decoder((16, 16, 16, 16), (0, 1, 0, 0), 16).eval()
    with torch.no_grad():
        decoder.ups[3].bias[:8] = -1e3  # two of the 16 last channels, four pixels each
    codes, style = torch.randn(9, 64, 4, 4), torch.eye(7)[:2]
    made = silenced(decoder, codes)
    with torch.no_grad():
        assert torch.allclose(made(codes[:2], style), decoder(codes[:2], style), atol=1e-6)
    assert (made.exit.weight[:, :2] == 0).all()
    assert (made.exit.weight[:, 2:] != 0).all()


def test_weights_that_the_wheel_does_not_carry_are_named(monkeypatch, tmp_path):
    module = importlib.import_module("genedge.toolkit.zoo.emoji.teacher")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(models.importlib, "import_module", lambda name: module)
    with pytest.raises(BadInput, match="emoji-teacher are in genedge's repository, not in its"):
        resolve("emoji-teacher")


def test_what_is_kept_counts_pixels_and_edges():
    edge = torch.zeros(1, 4, 8, 8)
    edge[..., 4:] = 0.5
    assert kept_loss(edge, edge) == 0
    assert torch.allclose(kept_loss(edge, edge + 0.5), torch.tensor(0.5))
    none = torch.zeros(1, 4, 8, 8)  # half of the pixels differ by 0.5, one gradient of seven too
    assert torch.allclose(kept_loss(none, edge), torch.tensor(0.25 + 0.25 * 0.5 / 7))


def test_the_last_phase_moves_the_decoder_alone_and_ends_on_int8_grids(tmp_path):
    emoji = [Emoji(c, f"{n} face", "Smileys & Emotion", ("happy",), c, False)
             for c, n in (("1f600", "grinning"), ("1f603", "beaming"), ("1f63a", "cat"))]  # fmt: skip
    count = 7 * len(emoji)
    pictures = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 4), np.uint8)
    which = np.arange(count)
    art = Art(pictures, tuple(emoji), which // 7, which % 7, np.zeros(count, bool))
    held = replace(art, held_out=which == 8)
    every = {(i, s) for i in range(len(emoji)) for s in range(7)}
    assert set(map(tuple, pairs_of(held, np.arange(len(emoji))).tolist())) == every - {(1, 1)}
    before = resolve("emoji")
    side = replace(before.components[0], module=Chooser(hidden=16, things=len(emoji)).eval())
    before = replace(before, components=(side, before.components[1]))
    known = np.arange(len(emoji))
    short = TOWARDS_INT8 | {"steps": 2, "rate": 1e-3}
    made = fit_int8(art, known, before, tmp_path, lambda *a: None, **short)
    text, image = (
        [(p, q) for p, q in zip(a.module.parameters(), b.module.parameters(), strict=True)]
        for a, b in zip(before.components, made.components, strict=True)
    )
    assert all(torch.equal(p, q) for p, q in text)
    assert sum(torch.equal(p, q) for p, q in image) < len(image) / 2
    assert all((grid_steps(q.detach().flatten(1)) > 0).all() for _, q in image if q.dim() > 1)


def test_half_way_to_another_decoder_its_weights_are_the_mean_and_its_bounds_stay():
    image = resolve("emoji").components[1].module
    other = copy.deepcopy(image)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1)
    made = between(image, other, 0.5)
    for old, new in zip(image.parameters(), made.parameters(), strict=True):
        assert torch.allclose(new, old + 0.5, atol=1e-6)
    bounds = [[(m.low, m.high) for m in d.modules() if isinstance(m, Clamp)] for d in (image, made)]
    assert bounds[0] == bounds[1]


def test_what_a_generator_lists_means_one_thing_each():
    known = resolve("emoji")
    text = copy.deepcopy(known.components[0].module)
    with torch.no_grad():
        text.hidden.weight.mul_(0.1)  # all but equally likely
        text.hidden.bias.fill_(3.0)
    made = decided(text, replace(known, calibration=()))

    def written(module, i):
        inputs = known.prepare(known.golden[i], golden_seed(i)).inputs
        tokens, meaning = (torch.from_numpy(inputs[n]) for n in ("tokens", "meaning"))
        return int((module.thing(module.pooled(tokens), meaning) > 0).sum())

    last = len(known.golden) - 1  # nothing was raised after it
    counts = [[written(module, i) for i in range(last + 1)] for module in (text, made)]
    assert max(counts[0]) > 1
    assert sum(counts[1]) < sum(counts[0])
    assert counts[1][last] == 1
    assert (made.hidden.bias >= text.hidden.bias).all()
