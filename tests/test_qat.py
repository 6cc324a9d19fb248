"""Quantization-aware distillation: a component trained through its int8 grids."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from jsonschema import Draft202012Validator
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput
from genedge.toolkit.blame import feeds_of, measure_losses, rebuilt
from genedge.toolkit.export import export
from genedge.toolkit.qat import new_prompt, train_grids
from genedge.toolkit.quantize import calibrate
from genedge.toolkit.saturation import preflight

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "manifest.schema.json").read_text())


@pytest.fixture(scope="module")
def calibrated(generator):
    ways = {c.name: ("minmax",) for c in generator.components}
    prepared, _ = calibrate(generator, ways, "portable", (), 2)
    return prepared["image", "minmax"]


def error(generator, graph):
    total = 0.0
    for i, prompt in enumerate(generator.golden):
        tensors = generator.tensors(generator.prepare(prompt, 900 + i))
        with torch.no_grad():
            drawn = graph(tensors["code"], tensors["style"])
        total += float((drawn - tensors["picture"]).square().mean().log())
    return total


def weights(graph):
    return torch.cat([p.detach().flatten() for p in graph.parameters()])


def test_training_comes_nearer_to_float_and_can_not_overflow(generator, calibrated, tmp_path):
    image = generator.components[1]
    trained = convert_pt2e(train_grids(generator, image, calibrated, 100, tmp_path))
    before = convert_pt2e(copy.deepcopy(calibrated))
    assert error(generator, trained) < error(generator, before) - 0.5
    assert not any(risk.channels for risk in preflight({"image": trained}))


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    generator, calibrated, tmp_path, monkeypatch
):
    image = generator.components[1]
    whole = train_grids(generator, image, calibrated, 6, tmp_path / "whole")

    def stop(what, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_grids(generator, image, calibrated, 6, tmp_path / "parts", stop)
    steps = []
    again = train_grids(
        generator,
        image,
        calibrated,
        6,
        tmp_path / "parts",
        lambda what, done, total: steps.append(done),
    )
    assert steps[0] == 3
    assert torch.equal(weights(again), weights(whole))


def test_new_prompts_are_made_of_known_words():
    random = np.random.default_rng(0)
    prompts = ("red apple, flat style", "green square")
    made = {new_prompt(prompts, random) for _ in range(50)}
    assert set(prompts) < made
    known = {word for p in prompts for word in p.split()}
    assert all(set(m.split()) <= known for m in made)
    assert new_prompt(("",), random) == ""


def test_an_export_is_trained_says_so_and_is_blamed_as_it_is(loose, tmp_path):
    for seed in (8, 5, 7, 6, 4, 3):  # where training does not serve, it is not taken
        generator = tiny.tiny(seed=seed)
        (one,) = export(generator, ["onnx"], out=tmp_path, limits=loose, qat=20, force=True)
        row = json.loads((one.directory / "manifest.json").read_text())
        if row["ranges"]["image"].endswith("trained"):
            break
    artifact = read_artifact(one.directory)
    Draft202012Validator(SCHEMA).validate(row)
    assert row["qat"] == 20
    assert row["ranges"]["image"].endswith("trained")
    assert [p.name for p in tmp_path.iterdir()] == [one.directory.name]
    graphs = rebuilt(artifact, generator, lambda what, done, total: None)
    blame = measure_losses(graphs, feeds_of(generator, 2), "onnx")
    assert blame.first_off is None


@pytest.mark.parametrize("more", [{"precision": "fp32"}, {"fallback": True}])
def test_what_can_not_be_trained_is_refused(generator, tmp_path, more):
    with pytest.raises(BadInput, match="distillation is for int8"):
        export(generator, ["onnx"], out=tmp_path, qat=5, **more)
