"""The bundled generator draws what its prompts say, and its artifacts draw what it draws."""

from pathlib import Path

import numpy as np
import pytest

from genedge.recipes import TARGETS
from genedge.runtime.bundled import BUNDLED_TARGETS
from genedge.runtime.errors import BadInput
from genedge.runtime.run import load
from genedge.runtime.verify import verify
from genedge.toolkit.export import export
from genedge.toolkit.models import resolve
from genedge.toolkit.saved import load_saved

ROOT = Path(__file__).parents[1]
BUNDLED = {t: ROOT / "runtime" / "artifacts" / f"emoji-{t}-int8" for t in BUNDLED_TARGETS}


@pytest.fixture(scope="module")
def emoji():
    return resolve("emoji")


@pytest.mark.parametrize("target", BUNDLED_TARGETS)
def test_a_bundled_artifact_holds_its_limits_and_is_of_the_checkpoint(emoji, target):
    report = verify([BUNDLED[target]])
    assert [f"{r.metric} {r.value}" for r in report.failed] == []
    assert load(BUNDLED[target]).artifact.generator_hash == emoji.hash()


@pytest.fixture(scope="module")
def fresh(emoji, tmp_path_factory):
    """One quantized graph, three artifacts; an export that missed a limit would raise."""
    out = tmp_path_factory.mktemp("fresh")
    return dict(zip(TARGETS, export(emoji, TARGETS, out=out), strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_a_fresh_int8_export_holds_the_default_limits(fresh, target):
    assert fresh[target].found["prompts"] >= 64
    assert fresh[target].found["lead"] >= 3


def real_and_drawn(emoji, count=64):
    with np.load(ROOT / "tests" / "data" / "held_out.npz") as held:
        prompts, real = held["prompts"][:count].tolist(), held["pictures"][:count].astype(float)
    white = real[..., :3] + 255 - real[..., 3:]
    from genedge.runtime.picture import over

    drawn = [over(emoji.pixels(emoji.prepare(p, 1)), (255, 255, 255)) for p in prompts]
    return white, np.stack(drawn).astype(float)


def test_held_out_pairs_are_nearer_to_their_own_picture_than_to_the_others(emoji):
    """Among 64 held-out pictures of all styles, chance would find 1 of 64."""
    real, drawn = real_and_drawn(emoji)
    distance = ((drawn[:, None] - real[None]) ** 2).mean((2, 3, 4))
    assert (distance.argmin(1) == np.arange(len(real))).mean() > 0.5


def test_the_seed_changes_what_a_vague_prompt_draws_and_hardly_a_full_name(emoji):
    def spread(prompt):
        drawn = [emoji.pixels(emoji.prepare(prompt, s, "noto")).astype(float) for s in range(8)]
        return np.stack(drawn).std(0).mean()

    assert spread("animal") > 3 * spread("red apple")


def test_the_style_changes_the_picture(emoji):
    drawn = [emoji.pixels(emoji.prepare("red apple", 1, s)) for s in emoji.signature.styles]
    assert all(not np.array_equal(drawn[0], other) for other in drawn[1:])


def test_transparent_ground_is_transparent_and_the_middle_is_not(emoji):
    pixels = emoji.pixels(emoji.prepare("soccer ball", 1, "noto"))
    assert pixels[0, 0, 3] == 0
    assert pixels[32, 32, 3] == 255


def test_the_checkpoint_is_small_and_holds_no_pickle():
    folder = ROOT / "toolkit" / "zoo" / "emoji" / "checkpoint"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20_000_000
    assert {f.suffix for f in folder.iterdir()} <= {".json", ".safetensors", ".md"}
    assert load_saved(folder).name == "emoji"


def test_no_golden_prompt_is_a_calibration_prompt(emoji):
    assert not set(emoji.golden) & set(emoji.calibration)
    assert len(emoji.golden) >= 64


def test_what_an_artifact_loses_is_counted_from_the_art(monkeypatch):
    """Art that float draws exactly: all that is lost is the artifact's own."""
    import types

    from genedge.toolkit.zoo.emoji import truth
    from genedge.toolkit.zoo.emoji.data import STYLES

    generator = resolve("emoji")
    names = ["red apple", "grinning face", "cat", "rocket", "sun", "tree", "fish", "book"]
    prompts = [f"{name}, {STYLES[0]} style" for name in names]
    pictures = [generator.pixels(generator.prepare(p, i)) for i, p in enumerate(prompts)]
    art = types.SimpleNamespace(
        train=np.ones(8, bool),
        style_of=np.zeros(8, np.int64),
        emoji_of=np.arange(8),
        pictures=truth.premultiplied(pictures).permute(0, 2, 3, 1).numpy(),
    )
    captions = types.SimpleNamespace(names=dict(enumerate(names)))
    monkeypatch.setattr(truth, "captions_of", lambda art: captions)
    found = truth.lost_to_truth(generator, BUNDLED["onnx"], art, 8, lambda *row: None)
    assert found["psnr_float"] == 100
    assert 25 < found["psnr_artifact"] < 50
    assert found["psnr_lost_low"] <= found["psnr_lost"] <= found["psnr_lost_high"]
    assert found["psnr_lost"] == pytest.approx(100 - found["psnr_artifact"])
    assert found["r1_float"] == 1
    other = ROOT / "runtime" / "artifacts" / "upscale-onnx-int8"
    with pytest.raises(BadInput, match="exported from another generator than emoji"):
        truth.lost_to_truth(generator, other, art, 8, lambda *row: None)
