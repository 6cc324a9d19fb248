"""Training stops anywhere and goes on as if it had not; its data are split as they should."""

import json

import pytest
import torch

from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.toolkit.train import Average, falling, remember, run_phase
from genedge.toolkit.zoo.emoji.captions import plain
from genedge.toolkit.zoo.emoji.codes import to_bytes
from genedge.toolkit.zoo.emoji.data import base_of
from genedge.toolkit.zoo.emoji.judge import picture_psnr
from genedge.toolkit.zoo.emoji.losses import MARGIN, SLACK, mean_decibels, picture_loss
from genedge.toolkit.zoo.emoji.train import STORED_STEPS, coarse


def trained(work, steps, stop=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    average = Average(dict(model.named_parameters()))

    def one_step(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(dict(model.named_parameters()))
        return {"loss": loss.detach()}

    state = {"model": model, "optimizer": optimizer, "average": average}
    run_phase("phase", work, steps, state, one_step, lambda *a: None, log_every=5)
    return average.tensors


def test_an_interrupted_run_ends_where_the_whole_one_does(tmp_path):
    whole = trained(tmp_path / "a", 20)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", 20, stop=13)
    assert (tmp_path / "b" / "phase.pt").is_file()
    resumed = trained(tmp_path / "b", 20)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value)


def test_a_run_stopped_while_it_is_judged_does_not_take_its_last_step_twice(tmp_path):
    taken = []

    def one_step(step):
        taken.append(step)
        return {}

    def stopped():
        raise KeyboardInterrupt

    def silent(*row):
        pass

    with pytest.raises(KeyboardInterrupt):
        run_phase("phase", tmp_path, 10, {}, one_step, silent, log_every=5,
                  evaluate=stopped, evaluate_every=5)  # fmt: skip
    run_phase("phase", tmp_path, 10, {}, one_step, silent)
    assert taken == [*range(10)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_that_diverges_is_stopped(tmp_path, value):
    losses = [0.5, value, 0.1]
    with pytest.raises(BadInput, match=r"loss is (nan|inf) at step 2: training has diverged"):
        run_phase("phase", tmp_path, 3, {}, lambda step: {"loss": losses[step]}, lambda *a: None)
    assert not list(tmp_path.glob("*.pt"))


def test_a_checkpoint_that_can_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 896 vs 790")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EnvironmentFailed, match=r"phase.pt could not be written; is the disk full"):
        trained(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["phase.jsonl"]


def test_a_folder_of_checkpoints_belongs_to_one_run(tmp_path):
    work = tmp_path / "work"
    remember(work, {"steps": 3})
    remember(work, {"steps": 4})  # nothing was trained yet
    assert json.loads((work / "settings.json").read_text()) == {"steps": 4}
    (work / "phase.pt").write_text("")
    remember(work, {"steps": 4})
    with pytest.raises(BadInput, match="a run with other settings"):
        remember(work, {"steps": 5})
    (work / "settings.json").unlink()  # of whom, nobody knows
    with pytest.raises(BadInput, match="a run with other settings"):
        remember(work, {"steps": 4})
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can not be a folder"):
        remember(tmp_path / "file", {})


def test_a_finished_phase_is_not_run_again(tmp_path):
    first = trained(tmp_path, 10)
    again = trained(tmp_path, 10, stop=0)
    for name, value in first.items():
        assert torch.equal(again[name], value)


def test_the_rate_falls_to_its_last_share():
    assert falling(0, 100) == 1
    assert falling(49, 100) == 1
    assert falling(100, 100) == pytest.approx(0.01)


def test_stored_weights_are_on_few_steps_and_near():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 16, 3)
    stored = coarse(layer)
    assert torch.equal(stored.bias, layer.bias)
    rows, before = stored.weight.detach().flatten(1), layer.weight.detach().flatten(1)
    for row in rows:
        step = row.abs().unique().diff().min()
        counts = row / step
        assert (counts - counts.round()).abs().max() < 1e-3
        assert counts.abs().max().round() <= STORED_STEPS
    assert (rows - before).square().mean() < before.square().mean() / 1000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1f468-200d-2695", "1f469-200d-2695"),  # man and woman health worker
        ("1f6b6", "1f6b6-200d-2640"),  # person and woman walking
        ("1f9d1-200d-1f680", "1f468-200d-1f680"),  # person and man astronaut
        ("1f3cb", "1f3cb-200d-2642"),  # person and man lifting weights
    ],
)
def test_genders_of_one_job_have_one_base(one, other):
    assert base_of(one) == base_of(other)


def test_unlike_emoji_have_unlike_bases():
    assert len({base_of(c) for c in ("1f34e", "1f34f", "1f468-200d-1f680", "1f468-200d-2695")}) == 4


def test_names_are_written_as_people_type_them():
    assert plain("kiss: woman, man") == "kiss woman man"
    assert plain("A button (blood type)") == "a button blood type"


def test_flat_ground_costs_nothing_just_beyond_the_margin_and_something_elsewhere():
    white, black = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    assert picture_loss(white + MARGIN + SLACK / 2, white) == 0
    assert picture_loss(black - MARGIN - SLACK / 2, black) == 0
    assert picture_loss(white, white) > 0
    assert picture_loss(white + MARGIN + 2 * SLACK, white) > 0


def test_decibels_are_what_pictures_are_judged_by_with_a_loss_s_sign():
    random = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 4, 8, 8, generator=random)
    pictures[:, :, :3] *= pictures[:, :, 3:]
    drawn, real = (to_bytes(p) for p in pictures)
    judged = picture_psnr(drawn, real).mean()
    assert torch.allclose(mean_decibels(drawn / 255, real / 255), -judged, atol=1e-4)
    beyond = drawn / 255 + 2 * (drawn == 255)  # clamped
    assert torch.allclose(mean_decibels(beyond, real / 255), -judged, atol=1e-4)
    assert torch.allclose(mean_decibels(real / 255, real / 255), torch.tensor(-50.0))


@pytest.mark.parametrize("content", [b"", b"PK damaged"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    trained(tmp_path, 5)
    (tmp_path / "phase.pt").write_bytes(content)
    with pytest.raises(BadInput, match=r"phase\.pt is damaged .*; remove it"):
        trained(tmp_path, 5)
