"""Modules that users bring: `package.module:function`, pictures as inputs, no text."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import own
import pytest
import torch
from PIL import Image
from test_cli import genedge, one_line
from torch import nn

from genedge.recipes import TARGETS
from genedge.runtime import load
from genedge.runtime.artifact import read_artifact, read_golden
from genedge.runtime.bench import bench
from genedge.runtime.errors import BadInput
from genedge.runtime.inspect import inspect
from genedge.runtime.verify import verify
from genedge.toolkit import blame
from genedge.toolkit.export import export
from genedge.toolkit.models import resolve
from genedge.toolkit.own import choice, generator_of, image, noise, style
from genedge.toolkit.quantize import quantize, simulated
from genedge.toolkit.saved import load_saved, save

ROOT = Path(__file__).parents[1]
MAKERS = {"grey": own.grey, "blend": own.blend, "classes": own.classes}


@pytest.fixture(scope="module")
def folders(loose, tmp_path_factory):
    """(kind, target) → artifact: `blend` as int8, the others as fp32."""
    out = tmp_path_factory.mktemp("own")
    found = {}
    for kind, make in MAKERS.items():
        precision = "int8" if kind == "blend" else "fp32"
        for one in export(make(), TARGETS, precision=precision, out=out, limits=loose):
            found[kind, one.directory.name.split("-")[1]] = one.directory
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", MAKERS)
def test_an_own_module_is_verified(folders, loose, kind, target):
    found = verify([folders[kind, target]], limits=loose)
    assert not found.failed, found.failed
    golden = read_golden(read_artifact(folders[kind, target]))
    generator = MAKERS[kind]()
    assert set(golden.images) == set(generator.signature.images)
    assert golden.pictures.shape[1:3] == generator.signature.output.shape[2:]
    for name, pictures in golden.images.items():
        assert pictures[1].tolist() == generator.pictures["golden 1"][name].tolist()


def test_grey_is_grey_and_needs_no_prompt(folders, tmp_path):
    done = genedge(
        "generate", "--artifact", folders["grey", "onnx"], "--seed", 4, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "no effect" not in done.stderr
    row = json.loads(done.stdout)["pictures"][0]
    with Image.open(tmp_path / row["file"]) as picture:
        assert picture.size == (20, 12)
        red, green, blue, alpha = np.asarray(picture).transpose(2, 0, 1)
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)
    assert (alpha == 255).all()


def test_a_prompt_for_a_generator_without_text_has_no_effect(folders, tmp_path):
    artifact = folders["grey", "onnx"]
    done = genedge("generate", "apple", "--artifact", artifact, "--out", "a.png", cwd=tmp_path)
    assert done.returncode == 0
    assert "'apple' has no effect" in done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_an_ignored_input_keeps_its_place(folders, target):
    pipeline = load(folders["blend", target])
    images = own.blend().pictures["golden 0"]
    one, other = (pipeline.prepare("", seed, images=images) for seed in (1, 2))
    assert not np.array_equal(one.inputs["ignored"], other.inputs["ignored"])
    assert np.array_equal(pipeline.pixels(one), pipeline.pixels(other))
    images = {**images, "mask": 255 - images["mask"]}
    assert not np.array_equal(
        pipeline.pixels(pipeline.prepare("", 1, images=images)), pipeline.pixels(one)
    )


def test_straight_alpha_keeps_its_colour(folders):
    drawn = load(folders["blend", "onnx"])
    feed = drawn.prepare("", 1, images=own.blend().pictures["golden 0"])
    values, pixels = drawn.values(feed.inputs)[0], drawn.pixels(feed)
    levels = np.rint(values.transpose(1, 2, 0).astype(np.float64) * 255).astype(int)
    seen = levels[..., 3] > 0
    assert seen.any()
    assert np.array_equal(pixels[seen], levels[seen])
    assert not pixels[~seen].any()


def save_pictures(folder):
    for name, levels in own.blend().pictures["golden 0"].items():
        Image.fromarray(levels.squeeze()).save(folder / f"{name}.png")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    Image.new("RGBA", (24, 16), (9, 9, 9, 99)).save(folder / "clear.png")
    Image.new("RGB", (24, 16), (200, 9, 9)).save(folder / "red.png")
    Image.new("I;16", (24, 16)).save(folder / "deep.png")
    (folder / "text.png").write_text("no picture")


def test_generate_takes_pictures_by_name(folders, tmp_path):
    save_pictures(tmp_path)
    artifact = folders["blend", "openvino"]
    words = ("--image", "photo=photo.png", "--image", "mask=mask.png", "--seed", 1)
    done = genedge("generate", *words, "--artifact", artifact, "--out", "a.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with load(artifact) as pipeline:
        feed = pipeline.prepare("", 1, images=own.blend().pictures["golden 0"])
        wanted = pipeline.pixels(feed)
        files = {n: Image.open(tmp_path / f"{n}.png") for n in ("photo", "mask")}
        again = pipeline.generate(seed=1, images=files)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), wanted)
    assert np.array_equal(np.asarray(again), wanted)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "input photo needs a picture; name it with --image photo=FILE"),
        (["photo=photo.png"], "input mask needs a picture"),
        (["photo.png"], "write NAME=FILE; names: photo, mask"),
        (["photo=photo.png", "photo=photo.png"], "has a picture already"),
        (["photo=small.png", "mask=mask.png"], "is 8 × 8 pixels, input photo takes 24 × 16"),
        (["photo=clear.png", "mask=mask.png"], "is transparent, input photo is RGB; flatten it"),
        (["photo=photo.png", "mask=red.png"], "has colours, input mask is grey; convert it"),
        (["photo=deep.png", "mask=mask.png"], "is of mode I;16; save it as an 8-bit RGB PNG"),
        (["photo=text.png", "mask=mask.png"], "can not be read as a picture"),
        (["photo=none.png", "mask=mask.png"], "none.png does not exist"),
    ],
)
def test_a_wrong_picture_is_one_line(folders, tmp_path, words, message):
    save_pictures(tmp_path)
    images = [w for word in words for w in ("--image", word)]
    artifact = folders["blend", "onnx"]
    done = genedge("generate", *images, "--artifact", artifact, cwd=tmp_path)
    one_line(done, 2, message)


def test_inspect_blame_and_bench_work_on_it(folders):
    artifact = read_artifact(folders["blend", "onnx"])
    assert any(t.dtype == "int8" for one in inspect(artifact) for t in one.stored)
    generator = own.blend()
    graphs = blame.rebuilt(artifact, generator, lambda *_: None)
    feeds = blame.feeds_of(generator, 1)
    found = blame.measure_losses(graphs, feeds, "onnx")
    assert {x.layer for x in found.losses} >= {"blend.a", "blend.b", "blend.exit"}
    times = bench([artifact.directory], rounds=10, runs=1, cold_starts=1, seconds=1)
    assert times.benched[0].timings[0].pictures_per_second > 0


def test_pictures_are_saved_with_the_generator(tmp_path):
    generator = resolve("own:blend")
    save(generator, tmp_path / "saved")
    again = load_saved(tmp_path / "saved", trusted="own:blend")
    assert again.hash() == generator.hash()
    feeds = [g.prepare("golden 2", 7).inputs for g in (generator, again)]
    assert all(np.array_equal(feeds[0][n], feeds[1][n]) for n in feeds[0])
    (tmp_path / "saved" / "pictures.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"pictures\.npz is missing or damaged"):
        load_saved(tmp_path / "saved", trusted="own:blend")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:bare", "without a description"),
        ("own:broken", "own:broken raised FileNotFoundError: weights.bin is not here"),
        ("own:blocks", "raised TypeError"),
        ("own:nothing", "no such function"),
    ],
)
def test_a_function_that_gives_no_generator_is_one_line(name, message):
    with pytest.raises(BadInput, match=message):
        resolve(name)


class Drawing(nn.Module):
    """Draws random numbers where `how` says."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 3, 1), how

    def forward(self, x):
        x = self.conv(x)
        if self.how == "numpy":
            return x + torch.from_numpy(np.random.default_rng().normal(size=(16, 16))).float()
        if self.how == "dropout":
            return nn.functional.dropout(x, 0.5, True)
        return x + torch.randn_like(x) if self.how == "torch" else (x, x)


def described(**changes):
    about = {"inputs": {"x": image(3, 16, 16)}, "output": (0, 1)}
    about |= {"images": {"x": own.blocks(20, 16, 16, 3)}}
    return about | changes


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (Drawing("torch"), {}, "Drawing calls randn_like in forward"),
        (Drawing("dropout"), {}, "Drawing calls dropout in forward"),
        (Drawing("numpy"), {}, "gives another picture each time"),
        (Drawing("both"), {}, "gives tuple, not one picture"),
        (nn.Conv2d(3, 4, 1), {}, "gives 4 channels; say layout"),
        (nn.Conv2d(3, 3, 1), {"layout": "gray"}, "gives 3 channels, layout 'gray' does not"),
        (nn.Conv2d(3, 3, 9), {}, r"at least 11 × 11"),
        (nn.Conv2d(5, 3, 1), {}, r"can not be run on x \[1, 3, 16, 16\]"),
        (nn.Conv2d(3, 3, 1), {"output": (1, 0)}, "level 0 lies below"),
        (nn.Conv2d(3, 3, 1), {"images": {}}, "input x is an image: give images"),
        (nn.Conv2d(3, 3, 1), {"images": {"x": np.zeros((4, 16, 16, 3), np.uint8)}}, "too few"),
        (nn.Conv2d(3, 3, 1), {"images": {"x": np.zeros((20, 16, 16, 3))}}, "expected uint8"),
        (nn.Conv2d(3, 3, 1), {"name": "../x"}, "use letters"),
        (nn.Conv2d(3, 3, 1), {"inputs": {"x": style(2)}, "styles": ["a"]}, "2 styles, 1 names"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(module, changes, message):
    changes = {"images": {}} | changes if "inputs" in changes else changes
    with pytest.raises(BadInput, match=message):
        generator_of(module, **described(**changes))


def test_a_module_in_training_mode_is_put_into_evaluation():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5)).train()
    generator = generator_of(module, **described())
    assert not generator.components[0].module.training


def test_a_seed_without_effect_is_said():
    plain = generator_of(nn.Conv2d(3, 3, 1), **described())
    assert not plain.signature.uses_seed
    assert own.grey().signature.uses_seed
    assert own.classes().signature.uses_seed
    assert choice(3).shape == (1, 3)
    assert noise(2, 3).source == "noise"


def test_the_page_s_example_runs(tmp_path):
    page = (ROOT / "docs" / "own.md").read_text()
    (tmp_path / "double.py").write_text(re.search(r"```python\n(.*?)```", page, re.S)[1])
    lines = re.search(r"```console\n(.*?)```", page, re.S)[1].splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    assert len(commands) >= 5
    python = {"genedge": [sys.executable, "-m", "genedge.toolkit.cli"], "python": [sys.executable]}
    said = []
    for command in commands:
        words = shlex.split(command)
        done = subprocess.run(
            python[words[0]] + words[1:], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, (command, done.stderr, done.stdout)
        said += done.stdout.splitlines()
    assert said == [line for line in lines if not line.startswith("$ ")]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (96, 64)


def test_int8_shifts_no_colours_behind_a_factor():
    """A last layer whose output is multiplied on the way to the picture is corrected in full, and
    [-1, 1] ends in levels that are not all half a grey level too high."""
    namespace: dict = {}
    page = (ROOT / "docs" / "own.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], namespace)
    generator = namespace["double"]()
    drawn = simulated(generator, quantize(generator))
    errors = []
    for i, prompt in enumerate(generator.calibration):
        feed = generator.prepare(prompt, seed=i)
        errors.append(drawn.pixels(feed).astype(float) - generator.pixels(feed))
    assert np.abs(np.mean(errors, axis=(0, 1, 2))).max() < 0.15
