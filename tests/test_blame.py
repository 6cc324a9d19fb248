"""A planted fault is named as the worst layer, in the simulation and on each target."""

import json

import numpy as np
import pytest
import torch

from genedge.recipes import TARGETS
from genedge.runtime.artifact import read_artifact
from genedge.runtime.errors import BadInput
from genedge.toolkit import blame as blaming
from genedge.toolkit.blame import SIMULATION, measure_losses
from genedge.toolkit.quantize import quantize
from genedge.toolkit.reduce import reduce_fault
from genedge.toolkit.taps import graphs_of, walk

PLACES = (SIMULATION, *TARGETS)


@pytest.fixture
def graphs(generator):
    return graphs_of(generator, quantize(generator, calibration=8))


def plant(graphs, layer, fault):
    """Multiplies the scale of a layer's weights by 4, or clips its output to a sixth."""
    tap = next(t for t in graphs.taps if t.name == layer)
    graph = graphs.small[tap.component]
    nodes = {n.name: n for n in graph.graph.nodes}
    if fault == "scale":
        end = nodes[tap.node]
        conv = end if "conv" in end.name or "linear" in end.name else end.args[0]
        scale = conv.args[1].args[1]  # of dequantize_per_channel
        owner = graph
        for part in str(scale.target).split("."):
            owner = getattr(owner, part)
        owner.data.mul_(4)
    else:
        back = nodes[tap.read]
        for node in (back, back.args[0]):
            node.args = (node.args[0], node.args[1] / 6, *node.args[2:])
        graph.recompile()


FAULTS = [("image.entry", "scale"), ("image.up", "clip")]


# ExecuTorch has a graph for each layer: one fault there always, the other with the long grids.
@pytest.mark.parametrize(
    ("layer", "fault", "where"),
    [
        pytest.param(
            *fault,
            place,
            marks=[pytest.mark.grid] if place == "executorch" and fault != FAULTS[0] else [],
        )
        for fault in FAULTS
        for place in PLACES
    ],
)
def test_a_planted_fault_is_named_worst(graphs, generator, layer, fault, where):
    feeds = blaming.feeds_of(generator, 2)
    before = measure_losses(graphs, feeds, SIMULATION)
    plant(graphs, layer, fault)
    found = measure_losses(graphs, feeds, where)
    assert found.worst.layer == layer
    assert min(found.losses, key=lambda x: x.alone).layer == layer
    old = next(x for x in before.losses if x.layer == layer)
    assert found.worst.picture_alone < old.picture_alone - 6
    assert found.picture < before.picture


def test_given_all_of_float_the_picture_is_float(graphs, generator):
    (feed,) = blaming.feeds_of(generator, 1)
    picture, seen = walk(graphs, feed)
    again, _ = walk(graphs, feed, given=seen)
    assert torch.equal(picture, again)
    assert torch.allclose(
        picture,
        generator.tensors(generator.prepare(generator.golden[0], 1000))["picture"],
        atol=2e-2,
    )


def test_the_last_cumulative_picture_is_the_int8_picture(graphs, generator):
    found = measure_losses(graphs, blaming.feeds_of(generator, 2))
    assert found.losses[-1].picture_cumulative == pytest.approx(found.picture)
    assert found.first_off is None


@pytest.mark.parametrize("target", TARGETS)
def test_the_twin_draws_what_the_artifact_draws(artifacts, generator, target):
    artifact = read_artifact(artifacts[target, "int8"])
    graphs = blaming.rebuilt(artifact, generator, lambda *a: None)
    assert blaming.twin_to_artifact(graphs, artifact, blaming.feeds_of(generator, 2)) > 50


def test_blame_refuses_other_models_and_float_artifacts(artifacts, generator):
    from tiny import other

    with pytest.raises(BadInput, match="exported from another"):
        blaming.rebuilt(read_artifact(artifacts["onnx", "int8"]), other(), lambda *a: None)
    with pytest.raises(BadInput, match="looks at int8"):
        blaming.rebuilt(read_artifact(artifacts["onnx", "fp32"]), generator, lambda *a: None)


def test_a_layer_that_leaves_the_simulation_is_cut_out(graphs, generator, tmp_path, monkeypatch):
    """A runtime that adds wrongly, as a fault to find: what ONNX Runtime returns is shifted."""
    from genedge.toolkit import taps

    real = taps.load_graph

    def faulty(graph, example, target, folder, name, names):
        run = real(graph, example, target, folder, name, names)
        ends = [n.name for n in graph.graph.nodes]

        def wrong(inputs):
            results = run(inputs)
            for key in results:
                if key == "dequantize_per_tensor_default_5.tap" or (key == "y" and "add" in ends):
                    results[key] = results[key] + 0.2
            return results

        return wrong

    monkeypatch.setattr(taps, "load_graph", faulty)
    monkeypatch.setattr("genedge.toolkit.reduce.load_graph", faulty)
    feeds = blaming.feeds_of(generator, 1)
    found = measure_losses(graphs, feeds, "onnx")
    assert found.first_off == "text:add"
    piece = reduce_fault(graphs, "onnx", "text:add", feeds[0], tmp_path / "piece")
    assert piece.layers == ("text:add",)
    assert piece.off > 1.5
    row = json.loads((tmp_path / "piece" / "generator.json").read_text())
    assert row["layers"] == ["text:add"]
    assert (tmp_path / "piece" / "piece.onnx").is_file()
    with np.load(tmp_path / "piece" / "outputs.npz") as arrays:
        assert np.abs(arrays["returned"] - arrays["simulation"]).max() > 0.1


def test_the_chart_is_drawn(graphs, generator, tmp_path):
    from PIL import Image

    found = measure_losses(graphs, blaming.feeds_of(generator, 1))
    blaming.draw_chart([found], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 500
