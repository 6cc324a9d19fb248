"""A diffusers directory becomes an artifact that draws what diffusers' own pipeline draws."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from genedge.recipes import TARGETS
from genedge.runtime import measure
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput
from genedge.runtime.inspect import Stored, inspect
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.run import load
from genedge.runtime.verify import verify

pytest.importorskip("diffusers")
from grid import note
from pipelines import KINDS, WALKS, their_pixels

from genedge.toolkit.models import resolve
from genedge.toolkit.pipeline import embedded_guidance, load_pipeline
from genedge.toolkit.pipeline_precision import checked_plan, edges_of

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "manifest.schema.json").read_text())
PROMPT = "a red apple on a table"
# `dpm` is Stable Diffusion under another scheduler: drawn in float here, exported in the grid.
FAMILIES = [k for k in KINDS if k != "dpm"]


def _grid():
    """Every family on ONNX and OpenVINO, the smallest on ExecuTorch; the rest is for test-all."""
    for kind in KINDS:
        for target in TARGETS:
            few = (target != "executorch" and kind in FAMILIES) or (kind, target) == SMALLEST
            yield pytest.param(kind, target, marks=[] if few else pytest.mark.grid)


SMALLEST = ("turbo", "executorch")


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_walk_is_that_of_diffusers(saved, kind, monkeypatch):
    generator = load_pipeline(saved(kind), **WALKS[kind])
    feed = generator.prepare(PROMPT, 5)
    theirs = their_pixels(saved(kind), feed, monkeypatch, **WALKS[kind])
    assert theirs[..., :3].std() > 20
    assert picture_psnr(generator.pixels(feed), theirs) >= 60


def test_other_words_of_a_walk_are_those_of_diffusers(saved, monkeypatch):
    folder = saved("xl")
    words = {"steps": 3, "guidance": 3.5}
    generator = load_pipeline(folder, negative="the house", size=24, **words)
    feed = generator.prepare(PROMPT, 5)
    more = {"negative_prompt": "the house", "height": 24, "width": 24}
    theirs = their_pixels(folder, feed, monkeypatch, **words, **more)
    assert theirs.shape[:2] == (24, 24)
    assert picture_psnr(generator.pixels(feed), theirs) >= 60
    plain = load_pipeline(folder, size=24, **words)
    assert picture_psnr(plain.pixels(feed), theirs) < 60


def test_an_old_config_is_set_right_as_its_class_does(saved, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "old"
    shutil.copytree(saved("stable-diffusion"), folder)
    path = folder / "scheduler" / "scheduler_config.json"
    row = json.loads(path.read_text()) | {"steps_offset": 0, "clip_sample": True}
    path.write_text(json.dumps(row))
    generator = load_pipeline(folder, steps=2)
    feed = generator.prepare(PROMPT, 5)
    assert picture_psnr(generator.pixels(feed), their_pixels(folder, feed, monkeypatch)) >= 60


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # As Stable Diffusion 1.5 and SDXL Turbo are published.
        ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ],
)
def test_the_schedulers_of_stock_directories_are_those_of_diffusers(
    tmp_path, monkeypatch, name, words
):
    import diffusers
    from pipelines import STABLE, stable_diffusion

    folder = tmp_path / "stock"
    stable_diffusion(getattr(diffusers, name)(**STABLE, **words)).save_pretrained(folder)
    generator = load_pipeline(folder, steps=4)
    feed = generator.prepare(PROMPT, 5)
    theirs = their_pixels(folder, feed, monkeypatch, steps=4)
    assert picture_psnr(generator.pixels(feed), theirs) >= 60


def test_embedded_guidance_is_that_of_diffusers(saved):
    from diffusers import StableDiffusionPipeline

    for width in (7, 8, 256):
        theirs = StableDiffusionPipeline.get_guidance_scale_embedding(
            None, torch.tensor([7.5]), embedding_dim=width
        )
        torch.testing.assert_close(embedded_guidance(7.5, width), theirs)


@pytest.mark.parametrize(("kind", "target"), _grid())
def test_an_artifact_draws_what_diffusers_draws(sampled, saved, kind, target, monkeypatch):
    folder = sampled(kind, target)
    with load(folder) as pipeline:
        feed = pipeline.prepare(PROMPT, 5)
        drawn = pipeline.pixels(feed)
    theirs = their_pixels(saved(kind), feed, monkeypatch, **WALKS[kind])
    psnr = picture_psnr(drawn, theirs)
    note(kind, target, "fp32", psnr=min(psnr, 100.0))
    assert psnr >= 60
    row = json.loads((folder / "manifest.json").read_text())
    Draft202012Validator(SCHEMA).validate(row)
    assert row["steps"] == ["sampler"]


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_generate_and_verify_of_a_pipeline_run_without_torch(sampled, target, tmp_path):
    folder, out = sampled("turbo", target), tmp_path / "a.png"
    code = f"""
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchao", "safetensors", "diffusers", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
from pathlib import Path
from genedge.runtime.measure import measure
assert measure(Path({str(folder)!r}), None, 1)["psnr"] >= 60
sys.argv = ["genedge", "generate", {PROMPT!r}, "--artifact", {str(folder)!r}, "--seed", "1",
            "--out", {str(out)!r}]
from genedge.toolkit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.is_file()


def test_verify_says_on_how_many_prompts_and_the_reference_draws_the_same(sampled, saved):
    folder = sampled("turbo", "onnx")
    report = verify([folder])
    row = next(r for r in report.rows if r.metric == "prompts")
    assert row.value == "4 of 4 golden prompts"
    assert not report.failed
    verb = ["verify", str(folder), "--reference", str(saved("turbo"))]
    done = subprocess.run(
        [sys.executable, "-m", "genedge.toolkit.cli", *verb], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference_db" in done.stdout


def test_seeds_words_and_long_prompts_reach_the_picture(sampled):
    with load(sampled("turbo", "onnx")) as pipeline:
        one = pipeline.pixels(pipeline.prepare(PROMPT, 1))
        assert np.array_equal(one, pipeline.pixels(pipeline.prepare(PROMPT, 1)))
        assert not np.array_equal(one, pipeline.pixels(pipeline.prepare(PROMPT, 2)))
        assert not np.array_equal(one, pipeline.pixels(pipeline.prepare("two blue birds", 1)))
        feed = pipeline.prepare("the house " * 38 + "and a small Cat", 1)
        assert feed.warnings == ("the prompt is too long; not drawn: 'a small Cat'",) or (
            feed.warnings[0].endswith("Cat'")
        )
        assert len(feed.warnings) == 1


def test_the_manifest_says_how_it_walks(sampled):
    artifact = read_artifact(sampled("xl", "onnx"))
    spec = artifact.sampler
    assert (spec.steps, spec.guided, spec.negative, spec.scaling) == (2, True, None, 0.13025)
    assert spec.mean == (0.1, -0.2, 0.3, 0.0)
    assert set(artifact.words) == {"tokens", "tokens_2"}
    assert artifact.bytes > sum(f.bytes for c in artifact.components for f in c.files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "0 steps"),
        (
            {"config": {"_class_name": "HeunDiscreteScheduler"}},
            "'HeunDiscreteScheduler' is not supported",
        ),
        ({"latent": [4, 8]}, "the sampler is incomplete or malformed"),
        ({"denoiser": "unit"}, "sampler names component 'unit'"),
    ],
)
def test_a_manifest_with_a_wrong_sampler_is_refused(sampled, tmp_path, change, message):
    folder = tmp_path / "a"
    folder.mkdir()
    row = json.loads((sampled("turbo", "onnx") / "manifest.json").read_text())
    row["sampler"] |= change
    (folder / "manifest.json").write_text(json.dumps(row))
    with pytest.raises(BadInput, match=message):
        read_artifact(folder)


def test_passes_for_one_pass_refuse_a_pipeline(saved):
    with pytest.raises(BadInput, match="only export and verify work on one"):
        resolve(str(saved("turbo")))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("turbo", "onnx"),
        ("turbo", "openvino"),
        pytest.param("turbo", "executorch", marks=pytest.mark.grid),
        *(
            pytest.param(k, t, marks=pytest.mark.grid)
            for k in KINDS
            if k != "turbo"
            for t in TARGETS
        ),
    ],
)
def test_int8_goes_by_the_plan(sampled, saved, kind, target):
    folder = sampled(kind, target, "int8")
    row = json.loads((folder / "manifest.json").read_text())
    Draft202012Validator(SCHEMA).validate(row)
    spec = row["sampler"]
    assert {row["plan"][n] for n in spec["encoders"]} == {"weights-int8"}
    assert row["plan"][spec["denoiser"]] == "int8"
    assert row["plan"][spec["decoder"]] in ("int8", "float")
    stored = {one.component: one.stored for one in inspect(read_artifact(folder))}
    for name in spec["encoders"]:  # its float tables are positions and the causal mask
        sides = {tuple(sorted(t.shape)) for t in stored[name] if t.dtype == "float32"}
        assert not sides & {(16, 16), (16, 32)}, name
    unet = load_pipeline(saved(kind), **WALKS[kind]).components[-2]
    edges = tuple(n.removeprefix(f"{unet.name}.") for n in edges_of(unet))
    planned = sum(
        m.weight.numel()
        for n, m in unet.module.named_modules()
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)) and not f"{n}.".startswith(edges)
    )
    small = sum(np.prod(t.shape) for t in stored[spec["denoiser"]] if t.dtype in ("int8", "uint8"))
    assert small >= planned > 1000
    measured = row["measured"]
    figures = {"psnr": measured["psnr"], "worst": measured["psnr_worst"]}
    note(kind, target, "int8", decoder=row["plan"][spec["decoder"]], **figures)
    # An untrained net of 16 channels is a poor subject: the figure is reported, this is a floor.
    assert measured["psnr"] >= 12


def test_a_component_that_is_planned_float_is_no_part_of_the_share_in_int8():
    def share(plan, **stored):
        tensors = {n: [Stored(n, t, (10, 10), 100)] for n, t in stored.items()}
        artifact = SimpleNamespace(precision="int8", about={"plan": plan})
        return measure._int8_share(artifact, tensors)["stored_int8"]

    assert share({"unet": "float", "vae": "int8"}, unet="float32", vae="int8") == 1
    assert share({"unet": "int8", "vae": "int8"}, unet="float32", vae="int8") == 0.5
    assert share({"unet": "float"}, unet="float32") == 0


def test_the_usual_plan_can_be_overridden_and_edges_stay_float(saved):
    generator = load_pipeline(saved("turbo"), **WALKS["turbo"])
    assert checked_plan(generator, None) == {
        "text_encoder": "weights-int8",
        "unet": "int8",
        "vae": "auto",
    }
    assert checked_plan(generator, {"vae": "int8", "unet": "float"})["unet"] == "float"
    for wrong in ({"vea": "float"}, {"vae": "int4"}, {"unet": "auto"}):
        with pytest.raises(BadInput, match="unknown; known"):
            checked_plan(generator, wrong)
    edges = {n for c in generator.components for n in edges_of(c)}
    assert {
        "unet.model.conv_in",
        "unet.model.conv_out",
        "unet.model.time_embedding",
        "vae.model.decoder.layers.0",
    } <= edges
    assert not any(n.startswith("text_encoder") for n in edges)


def test_calibration_sees_every_timestep_of_real_walks(saved):
    """What the observers are shown is what the float walk shows its denoiser, twice a step."""
    generator = load_pipeline(saved("stable-diffusion"), steps=3)
    seen = []
    for i, prompt in enumerate(generator.calibration[:2]):
        generator.walked(
            generator.prepare(prompt, i),
            lambda name, tensors: name == "unet" and seen.append(float(tensors["timestep"])),
        )
    once = sorted(generator.sampler.walk().timesteps, reverse=True)
    assert seen == [t for t in once for _ in range(2)] * 2


def test_ranges_of_both_ways_come_from_one_walk(saved):
    """What the histograms saw last is what plain observers would have seen of the same walks."""
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from genedge.toolkit.pipeline import with_components
    from genedge.toolkit.pipeline_precision import _calibrate, _late_weights, _same_ranges
    from genedge.toolkit.programs import example_inputs, export_module
    from genedge.toolkit.quantize import OBSERVERS
    from genedge.toolkit.quantizer import CommonQuantizer

    generator = load_pipeline(saved("turbo"), **WALKS["turbo"])
    unet = generator.components[1]
    program = export_module(unet.module, example_inputs(generator, unet))
    plain, mine, histogram = (
        prepare_pt2e(program.module(), CommonQuantizer(True, (), OBSERVERS[way]))
        for way in ("minmax", "minmax", "histogram")
    )
    _calibrate(generator, {"unet": plain}, lambda what, done, total: None)
    _calibrate(generator, {"unet": histogram}, lambda what, done, total: None)
    _same_ranges(histogram, mine)
    compared = 0
    for name, observer in plain.named_children():
        if name.startswith("activation_post_process"):
            other = mine.get_submodule(name)
            assert type(other) is type(observer)
            assert np.array_equal(observer.min_val, other.min_val), name
            assert np.array_equal(observer.max_val, other.max_val), name
            compared += isinstance(observer, MinMaxObserver)
    assert compared > 20
    feed = generator.prepare(PROMPT, 5)
    observed = with_components(generator, {"unet": plain})
    assert np.array_equal(observed.pixels(feed), generator.pixels(feed))
    nodes = list(_late_weights(convert_pt2e(plain)).graph.nodes)
    weights = [n for n in nodes if "dequantize_per_channel" in str(n.target)]
    assert len(weights) > 20
    assert all(nodes[nodes.index(n) + 1] in n.users for n in weights)
