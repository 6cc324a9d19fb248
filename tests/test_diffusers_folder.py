"""What a diffusers directory may not hold is refused with one clear line; what it may is loaded."""

import json
import shutil

import numpy as np
import pytest
import torch

from genedge.runtime.errors import BadInput

pytest.importorskip("diffusers")
from pipelines import KINDS

from genedge.toolkit.pipeline import load_pipeline


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved("stable-diffusion"), tmp_path / "model")
    return tmp_path / "model"


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path, share=0.7):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


UNET = "unet/diffusion_pytorch_model.safetensors"
WRONG = {
    "code": (lambda d: (d / "unet" / "my_unet.py").write_text("raise SystemExit"), "Python code"),
    "a hidden code": (lambda d: (d / "pipeline.py").write_text(""), "pipeline.py: Python code"),
    "bin": (lambda d: (d / "unet" / "x.bin").write_bytes(b""), "x.bin is a pickle"),
    "ckpt": (lambda d: (d / "model.CKPT").write_bytes(b""), "model.CKPT is a pickle"),
    "auto_map": (lambda d: _edit(d / "unet/config.json", auto_map={}), "auto_map names code"),
    "pipeline": (
        lambda d: _edit(d / "model_index.json", _class_name="KandinskyPipeline"),
        "'KandinskyPipeline' is not supported; supported: StableDiffusionPipeline,",
    ),
    "class": (
        lambda d: _edit(d / "model_index.json", unet=["diffusers", "UNetMotionModel"]),
        "diffusers.UNetMotionModel is not supported; supported: UNet2DConditionModel",
    ),
    "library": (
        lambda d: _edit(d / "model_index.json", unet=["my_code", "UNet2DConditionModel"]),
        "my_code.UNet2DConditionModel is not supported",
    ),
    "no part": (
        lambda d: _edit(d / "model_index.json", vae=[None, None]),
        "StableDiffusionPipeline without vae is not supported",
    ),
    "index": (lambda d: (d / "model_index.json").write_text("{"), "model_index.json is damaged"),
    "no folder": (lambda d: shutil.rmtree(d / "vae"), "vae is missing"),
    "no config": (lambda d: (d / "vae/config.json").unlink(), "config.json is missing"),
    "no weights": (lambda d: (d / UNET).unlink(), "unet has no weights"),
    "no words": (
        lambda d: [(d / "tokenizer" / "tokenizer.json").unlink()],
        "has no tokenizer.json, nor vocab.json",
    ),
    "no scheduler": (
        lambda d: (d / "scheduler/scheduler_config.json").unlink(),
        "scheduler_config.json is missing",
    ),
    "cut short": (lambda d: _cut(d / UNET), r"its header says [\d,]+ \(cut short\?\)"),
    "cut in its header": (lambda d: _cut(d / UNET, 0.001), "no whole safetensors file"),
    "empty": (lambda d: (d / UNET).write_bytes(b""), "no whole safetensors file"),
    "scheduler": (
        lambda d: _edit(d / "model_index.json", scheduler=["diffusers", "HeunDiscreteScheduler"]),
        "'HeunDiscreteScheduler' is not supported; supported: EulerDiscreteScheduler",
    ),
    "prediction": (
        lambda d: _edit(d / "scheduler/scheduler_config.json", prediction_type="flow"),
        "prediction_type 'flow' is not supported",
    ),
    "shapes": (
        lambda d: _edit(d / "unet/config.json", cross_attention_dim=24),
        "unet can not be loaded",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_directory_is_refused_in_one_line(folder, name):
    spoil, message = WRONG[name]
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        load_pipeline(folder, steps=1)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / UNET)
    del weights["conv_in.bias"]
    save_file(weights, folder / UNET)
    with pytest.raises(BadInput, match=r"its weights lack conv_in\.bias"):
        load_pipeline(folder, steps=1)


@pytest.fixture
def picture(saved):
    generator = load_pipeline(saved("stable-diffusion"), steps=1)
    return generator.pixels(generator.prepare("a red apple", 1))


def _drawn(folder):
    generator = load_pipeline(folder, steps=1)
    return generator.pixels(generator.prepare("a red apple", 1))


def test_shards_with_an_index_load_and_a_missing_one_is_named(tmp_path, picture):
    folder = tmp_path / "sharded"
    KINDS["stable-diffusion"]().save_pretrained(folder, max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    # Not bit for bit: sums take another order where weights lie elsewhere in memory.
    assert np.abs(_drawn(folder).astype(int) - picture).max() <= 1
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(BadInput, match=r"-00002-of-\d+\.safetensors is missing, .* names it"):
        load_pipeline(folder, steps=1)


def test_a_directory_of_fp16_variants_alone_loads(tmp_path, picture):
    folder = tmp_path / "half"
    KINDS["stable-diffusion"]().to(torch.float16).save_pretrained(folder, variant="fp16")
    assert not (folder / UNET).exists()
    drawn = _drawn(folder)
    assert np.abs(drawn.astype(int) - picture).mean() < 3


def test_a_safety_checker_is_left_out_and_said(folder, capsys):
    _edit(folder / "model_index.json", safety_checker=["stable_diffusion", "SafetyChecker"])
    assert load_pipeline(folder, steps=1).sampler.left_out == ("safety_checker",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "0 steps"),
        ({"steps": 2000}, "use 1 to 1000"),
        ({"guidance": -1.0}, "guidance -1.0 can not be used"),
        ({"size": 17}, "size 17 can not be drawn; use a multiple of 2"),
    ],
)
def test_a_walk_that_can_not_be_drawn_is_refused(folder, words, message):
    with pytest.raises(BadInput, match=message):
        load_pipeline(folder, **words)
