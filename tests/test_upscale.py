"""`upscale`, a generator that others trained, alone and chained behind `emoji`."""

import contextlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import genedge, one_line

from genedge.runtime import load
from genedge.runtime.artifact import read_artifact, read_golden
from genedge.runtime.bundled import BUNDLED_TARGETS, bundled
from genedge.runtime.enlarge import by, enlarged, load_upscaler
from genedge.runtime.errors import BadInput
from genedge.runtime.metrics import flat_kept, picture_psnr, psnr, signed_error
from genedge.runtime.picture import over
from genedge.runtime.verify import verify
from genedge.toolkit.models import resolve
from genedge.toolkit.zoo.upscale.convert import read_weights

WHITE = (255, 255, 255)
DRAWN = ("a red apple, 3d style", "rocket, flat style", "guitar, glossy style")


@pytest.fixture(scope="module")
def upscale():
    return resolve("upscale")


@pytest.fixture(scope="module")
def chained(upscale):
    """By prompt: what the float generators draw, one after the other, and the small drawing."""
    emoji = resolve("emoji")

    def enlarge(colours):
        return upscale.pixels(upscale.prepare("", 0, images={"small": colours}))

    small = {p: emoji.pixels(emoji.prepare(p, 1)) for p in DRAWN}
    return {p: (s, enlarged(s, enlarge, None)) for p, s in small.items()}


def test_the_network_is_the_published_one(upscale):
    assert sum(p.numel() for p in upscale.components[0].module.parameters()) == 621_424
    x = torch.full((1, 3, 64, 64), 1.0)
    white = upscale.components[0].module(x)
    assert white.shape == (1, 3, 256, 256)
    assert float(white[..., 32:-32, 32:-32].min()) > 1 - 1.5 / 255


def test_other_weights_are_refused():
    with pytest.raises(BadInput, match="sha256"):
        read_weights(b"\x47\x6b\x30\x01" + bytes(100))


@pytest.mark.parametrize("target", BUNDLED_TARGETS)
def test_the_bundled_artifact_is_this_generator_and_holds_its_limits(upscale, target):
    folder = bundled("upscale", target)
    assert folder.name == f"upscale-{target}-int8"
    artifact = read_artifact(folder)
    assert artifact.generator_hash == upscale.hash()
    assert artifact.bytes < 0.9e6
    golden = read_golden(artifact)
    feed = upscale.prepare("", 0, images=golden.images_of(0))
    assert picture_psnr(upscale.pixels(feed), golden.pictures[0]) >= 60
    found = verify([folder], prompts=4)
    assert not found.failed, found.failed
    assert found.details[0]["psnr"] >= 42


def test_both_bundled_artifacts_draw_the_same_pixels(upscale):
    """PReLUs and all: neither runtime meets a tie that it could round its own way."""
    golden = read_golden(read_artifact(bundled("upscale")))
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(load(bundled("upscale", t))) for t in BUNDLED_TARGETS]
        for i in range(len(golden.pictures)):
            feed = upscale.prepare("", 0, images=golden.images_of(i))
            first, *others = (artifact.pixels(feed) for artifact in both)
            assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("target", BUNDLED_TARGETS)
def test_the_chain_draws_what_the_float_chain_draws(chained, target):
    with load(bundled("emoji", target)) as emoji, load_upscaler(emoji) as upscaler:
        assert upscaler.artifact.target == target
        rows = []
        for prompt, (small, wanted) in chained.items():
            drawn = enlarged(emoji.pixels(emoji.prepare(prompt, 1)), by(upscaler), None)
            alone = enlarged(small, by(upscaler), None)
            kept, flat = flat_kept(drawn, wanted)
            signed = np.abs(signed_error(alone, wanted)).max()
            rows.append(
                [picture_psnr(drawn, wanted), picture_psnr(alone, wanted), kept / flat, signed]
            )
    psnr, alone, flat, _ = np.mean(rows, axis=0)
    assert psnr >= 34
    assert alone >= 41
    assert flat >= 0.99


def test_over_white_little_is_lost_by_transparency(chained, upscale):
    for small, large in chained.values():
        feed = upscale.prepare("", 0, images={"small": over(small, WHITE)})
        assert psnr(over(large, WHITE), upscale.pixels(feed)[..., :3]) >= 40


def test_flat_colours_stay_near_those_of_float(upscale):
    """White and black stay; mid-tones move by a few levels, by chance more in one than in another."""
    mixed = list(itertools.product((30, 90, 150, 210, 240), repeat=3))[::3]
    shifts = []
    with load(bundled("upscale")) as upscaler:
        for colour in ((255, 255, 255), (0, 0, 0), *mixed):
            small = np.broadcast_to(np.uint8(colour), (64, 64, 3)).copy()
            true = upscale.pixels(upscale.prepare("", 0, images={"small": small}))
            pair = [p[64:-64, 64:-64, :3].astype(float) for p in (by(upscaler)(small), true)]
            shifts.append(np.abs(pair[0].mean((0, 1)) - pair[1].mean((0, 1))).max())
            assert np.ptp(pair[0], (0, 1)).max() <= (3 if len(shifts) <= 2 else 7)
    assert max(shifts[:2]) <= 1.5
    assert np.mean(shifts[2:]) <= 3.5
    assert max(shifts[2:]) <= 6


@pytest.mark.parametrize("background", ["transparent", "white", "#206080"])
def test_generate_upscale_writes_256_pixels_without_torch(tmp_path, background):
    code = (
        "import sys; sys.modules['torch'] = None; from genedge.toolkit.cli import main;"
        f"sys.argv = ['genedge', 'generate', 'rocket, flat style', '--seed', '1', '--upscale',"
        f"'--background', '{background}', '--out', 'a.png']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (256, 256)
        assert picture.mode == ("RGBA" if background == "transparent" else "RGB")
        assert picture.info["upscaler"] == read_artifact(bundled("upscale")).hash


def test_a_picture_of_another_size_can_not_be_enlarged(artifacts, tmp_path):
    folder = artifacts["onnx", "fp32"]
    done = genedge("generate", "red apple", "--artifact", folder, "--upscale", cwd=tmp_path)
    one_line(done, 2, "--upscale enlarges pictures of 64 × 64 pixels; tiny draws 16 × 16")
