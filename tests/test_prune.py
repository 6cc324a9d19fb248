"""A pruned generator computes what the whole one does without those channels, loads and exports."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kinds
import pytest
import torch
from tiny import tiny
from torch import nn

from genedge.runtime.errors import BadInput
from genedge.runtime.signature import TensorSpec
from genedge.toolkit import channels
from genedge.toolkit.dependency import groups_of
from genedge.toolkit.generator import Component
from genedge.toolkit.importance import RANKINGS
from genedge.toolkit.int8_twin import Int8Twin
from genedge.toolkit.models import resolve
from genedge.toolkit.proof import PROOF_DB, kept_after, proof, provable
from genedge.toolkit.prune import (
    int8_bytes,
    multiply_adds,
    prune,
)
from genedge.toolkit.saved import load_saved, save


def studied(kind):
    torch.manual_seed(0)
    model = kind().eval()
    inputs = [(torch.randn(1, 3, 6, 6),) for _ in range(2)]
    groups, alone = groups_of(model, inputs[0])
    groups, more = provable(model, groups, inputs)
    return model, inputs, groups, alone | more


@pytest.mark.parametrize(
    ("kind", "pruned"),
    [
        (kinds.Shuffle2, {"a"}),
        (kinds.Shuffle3, {"a"}),
        (kinds.Unshuffle, {"a"}),
        (kinds.Residual, {"a", "c1", "c2", "d1"}),
        (kinds.Modulation, {"a", "both"}),
        (kinds.Concat, {"a", "c"}),
        (kinds.Depthwise, {"a", "deep"}),
        (kinds.Grouped, {"a", "grouped"}),
        (kinds.TransposedPair, {"a", "up", "deep", "up2"}),
        (kinds.Heads, {"a", "attention.out"}),
        (kinds.GroupNorm, {"a"}),
        (kinds.Twice, {"a", "again"}),
        (kinds.Bias, {"a"}),
        (kinds.Tokens, {"wide"}),
    ],
)
def test_what_can_be_pruned_is_pruned_right(kind, pruned):
    model, inputs, groups, _ = studied(kind)
    assert {n for g in groups for n in g.layers} == pruned
    last = [(g, range(len(g.units) - g.step)) for g in groups]
    first = [(g, range(g.step, len(g.units))) for g in groups]
    for removed in (last, first):
        kept = kept_after(model, removed)
        assert proof(model, kept, inputs) >= PROOF_DB
        small = copy.deepcopy(model)
        channels.keep(small, kept)
        for name in pruned:
            assert channels.width(small.get_submodule(name), "out") % 8 == 0
            assert channels.width(small.get_submodule(name), "out") < channels.width(
                model.get_submodule(name), "out"
            )


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        (kinds.Halves, "a", "its forward needs them all"),
        (kinds.FixedView, "a", "its forward needs them all (shape"),
        (kinds.MeanOfChannels, "a", "computes something else"),
        (kinds.NormOverAll, "a", "1 set(s)"),
        (kinds.ViewAndPermute, "a", "too few"),
        (kinds.ShuffleOfParts, "d", "its forward needs them all"),
        (kinds.Heads, "attention.query", "computes something else"),
        (kinds.Tokens, "a", "LayerNorm"),
        (kinds.Tokens, "attention.out_proj", "the graph does not see it"),
        (kinds.Residual, "first", "the first convolution"),
        (kinds.Residual, "last", "the last convolution"),
        (kinds.Residual, "b", "enter last"),
    ],
)
def test_what_can_not_be_pruned_is_left_alone_and_named(kind, layer, reason):
    _, _, groups, alone = studied(kind)
    assert reason in alone[layer]
    assert all(layer not in g.layers for g in groups)


def test_the_proof_fails_where_the_wrong_channels_go():
    model, inputs, groups, _ = studied(kinds.Shuffle2)
    kept = {n: dict(sides) for n, sides in kept_after(model, [(groups[0], range(16))]).items()}
    assert proof(model, kept, inputs) >= PROOF_DB
    kept["a"]["out"] = tuple(range(0, 128, 2))  # every second: as many, but across the shuffle
    assert proof(model, kept, inputs) < 60


def test_every_ranking_finds_the_channels_that_do_nothing():
    torch.manual_seed(0)
    model = kinds.Residual().eval()
    idle = [1, 5, 7, 8, 20, 33, 40, 47]
    with torch.no_grad():
        model.c2.weight[:, idle] *= 1e-4
        model.c1.weight[idle] *= 1e-4
        model.c1.bias[idle] *= 1e-4
    inputs = [(torch.randn(1, 3, 6, 6),) for _ in range(4)]
    groups, _ = groups_of(model, inputs[0])
    at = next(i for i, g in enumerate(groups) if g.layers == ("c1",))
    for name, ranking in RANKINGS.items():
        scores = ranking(model, groups, inputs)[at]
        assert sorted(scores.argsort()[:8].tolist()) == idle, name


def test_sensitivity_and_activation_differ_where_a_channel_never_changes():
    torch.manual_seed(0)
    model = kinds.Residual().eval()
    with torch.no_grad():
        model.c1.weight[3] = 0
        model.c1.bias[3] = 9.0
    inputs = [(torch.randn(1, 3, 6, 6),) for _ in range(4)]
    groups, _ = groups_of(model, inputs[0])
    at = next(i for i, g in enumerate(groups) if g.layers == ("c1",))
    assert int(RANKINGS["activation"](model, groups, inputs)[at].argmax()) == 3
    assert int(RANKINGS["sensitivity"](model, groups, inputs)[at].argmin()) == 3


def test_a_view_that_multiplies_indices_is_not_followed_without_end():
    """A maximum over units by pooling, as `emoji`'s text side takes one."""

    class Most(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.units, self.most = (
                nn.Linear(4, 32),
                nn.Linear(32, 50),
                nn.Linear(1, 50),
            )

        def forward(self, x):
            units = self.units(torch.relu(self.first(x)))
            pooled = nn.functional.max_pool2d(units.view(-1, 1, 1, 50), (1, 50))
            return units + self.most(pooled.view(-1, 1))

    groups, reasons = groups_of(Most(), (torch.randn(2, 4),))
    assert [g.layers for g in groups] == [("first",)]
    assert set(reasons) == {"units", "most"}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("make", [kinds.norms, kinds.transposed, lambda: resolve("emoji")])
def test_ends_tokens_and_boundaries_stay_whole(make, scope):
    whole = make()
    small = prune(whole, ratio=0.9, scope=scope, prompts=4)
    for before, after in zip(whole.components, small.components, strict=True):
        ends = [
            n
            for n, m in before.module.named_modules()
            if n
            in {"image": ("entry", "exit"), "text": ("embedding", "conv1", "conv2")}[before.name]
        ]
        assert ends
        for name in ends:
            a, b = before.module.get_submodule(name), after.module.get_submodule(name)
            assert torch.equal(a.weight, b.weight)
    feed = whole.prepare("x", 1)
    shapes = [{k: v.shape for k, v in g.tensors(feed).items()} for g in (whole, small)]
    assert shapes[0] == shapes[1]
    note = small.history[-1]
    assert note["multiply_adds"][1] < note["multiply_adds"][0]
    assert all(new % 8 == 0 and new < old for old, new in note["pruned"].values())
    assert note["left_alone"]


@pytest.mark.parametrize("importance", list(RANKINGS))
def test_a_generator_with_nothing_to_prune_says_why(importance):
    with pytest.raises(BadInput, match=r"no channels that can go .*boundary"):
        prune(tiny(), ratio=0.5, prompts=2, importance=importance)


def test_pruning_leaves_the_generator_that_it_was_given_as_it_was():
    whole = kinds.norms()
    before = whole.hash()
    prune(whole, ratio=0.5, prompts=4)
    assert whole.hash() == before


def test_targets_are_met_as_closely_as_multiples_of_8_allow():
    whole = kinds.norms()
    macs = int(multiply_adds(whole) * 0.6)
    small = prune(whole, target_macs=macs, prompts=4)
    assert 0.75 * macs < multiply_adds(small) <= macs
    size = int(int8_bytes(whole) * 0.6)
    small = prune(whole, target_bytes=size, prompts=4)
    assert 0.75 * size < int8_bytes(small) <= size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of"),
        ({"ratio": 0.5, "target_macs": 1}, "give one of"),
        ({"ratio": 1.0}, "out of range"),
        ({"ratio": float("nan")}, "out of range"),
        ({"target_macs": 10}, "out of reach"),
        ({"target_macs": 10**9}, "multiply-adds already; name a target below"),
        ({"ratio": 0.5, "importance": "luck"}, "importance 'luck' is unknown"),
        ({"ratio": 0.5, "scope": "all"}, "scope 'all' is unknown"),
        ({"ratio": 0.5, "keep": ["image.nothing"]}, "layer 'image.nothing' is unknown"),
        ({"ratio": 0.5, "also": ["exit"]}, "layer 'exit' is unknown"),
        ({"ratio": 0.5, "components": ["text"]}, "component 'text' is unknown"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        prune(kinds.norms(), prompts=2, **options)


def test_layers_that_the_user_keeps_are_kept():
    whole = kinds.norms()
    small = prune(whole, ratio=0.5, prompts=2, keep=["image.conv3"])
    assert small.components[0].module.conv3.out_channels == 32
    assert "kept as asked" in small.history[-1]["left_alone"]["image.conv3"]


def test_the_first_convolution_loses_channels_where_the_user_says_so():
    """The proof of prune() holds for it too; the last one's outputs are the picture, and stay."""
    whole = kinds.transposed()
    usual = prune(whole, ratio=0.5, prompts=2)
    first = prune(whole, ratio=0.5, prompts=2, also=["image.entry", "image.exit"])
    assert usual.components[0].module.entry.out_channels == 64
    assert usual.history[-1]["left_alone"]["image.entry"] == "the first convolution"
    assert first.components[0].module.entry.out_channels < 64
    assert first.components[0].module.exit.out_channels == 3
    assert multiply_adds(first) < multiply_adds(usual)


@pytest.mark.parametrize("name", ["norms", "transposed"])
def test_prune_save_load_in_a_new_process_export_verify(name, tmp_path):
    whole = resolve(f"kinds:{name}")
    once = prune(whole, ratio=0.3, prompts=4)
    twice = prune(once, ratio=0.3, prompts=4)
    assert multiply_adds(twice) < multiply_adds(once) < multiply_adds(whole)
    save(twice, tmp_path / "small")
    assert json.loads((tmp_path / "small" / "generator.json").read_text())["schema"] == 2
    with pytest.raises(BadInput, match=f"if you trust that function, .* kinds:{name}@"):
        load_saved(tmp_path / "small")
    model = f"kinds:{name}@{tmp_path / 'small'}"
    loaded = resolve(model)
    assert loaded.hash() == twice.hash()
    assert loaded.components[0].kept == twice.components[0].kept
    program = (
        "import sys; from genedge.toolkit.cli import main\n"
        f"sys.argv = ['genedge', 'export', {model!r}, '--target', 'onnx', "
        f"'--precision', 'fp32', '--out', {str(tmp_path / 'out')!r}]\nmain()"
    )
    env = {"PYTHONPATH": str(Path(__file__).parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, "-m", "genedge.toolkit.cli", "verify", "--min-psnr", "60"]
    done = subprocess.run(
        [*words, str(tmp_path / "out" / f"{name}-onnx-fp32")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_that_the_user_did_not_name_is_not_imported(tmp_path):
    save(resolve("kinds:norms"), tmp_path / "a")
    file = tmp_path / "a" / "generator.json"
    row = json.loads(file.read_text())
    file.write_text(json.dumps(row | {"constructor": "no_such_module:f"}))
    for model in (str(tmp_path / "a"), f"kinds:norms@{tmp_path / 'a'}"):
        with pytest.raises(BadInput, match="if you trust that function"):
            resolve(model)
    with pytest.raises(BadInput, match="no such function"):
        resolve(f"no_such_module:f@{tmp_path / 'a'}")
    file.write_text(json.dumps(row | {"constructor": "os:getcwd"}))
    with pytest.raises(BadInput, match="returned str"):
        resolve(f"os:getcwd@{tmp_path / 'a'}")


@pytest.mark.parametrize(
    "kept",
    [
        {"conv1": {"out": [999]}},
        {"nothing": {"out": [1]}},
        {"conv1": {"out": "x"}},
        {"attention.norm": {"out": [0]}},
        {"conv1": 3},
        7,
    ],
)
def test_damaged_kept_channels_are_refused(kept, tmp_path):
    save(prune(resolve("kinds:norms"), ratio=0.4, prompts=2), tmp_path / "a")
    file = tmp_path / "a" / "generator.json"
    row = json.loads(file.read_text())
    row["components"][0]["kept"] = kept
    file.write_text(json.dumps(row))
    with pytest.raises(BadInput, match=r"damaged|does not fit"):
        resolve(f"kinds:norms@{tmp_path / 'a'}")


def test_kept_channels_of_two_prunings_compose():
    first = {"a": {"out": (0, 2, 4, 6)}}
    then = {"a": {"out": (1, 3), "in": (0,)}, "b": {"in": (5,)}}
    assert channels.compose(first, then) == {
        "a": {"out": (2, 6), "in": (0,)},
        "b": {"in": (5,)},
    }


def steps_of_one():
    """Two components that are one module."""
    torch.manual_seed(0)
    net, whole = kinds.Twice(), kinds.norms()
    spec = TensorSpec("float32", (1, 3, 8, 8), -6, 6, "noise")
    picture = TensorSpec("float32", (1, 3, 8, 8), -6, 6)
    signature = replace(whole.signature, inputs={"noise": spec}, output=picture, styles=())
    parts = (("one", "noise", "between"), ("two", "between", "picture"))
    components = tuple(Component(n, net.eval(), (i,), (o,)) for n, i, o in parts)
    return replace(whole, components=components, signature=signature)


def test_components_of_one_module_lose_channels_each_and_load(tmp_path):
    whole = resolve("test_prune:steps_of_one")
    small = prune(whole, ratio=0.5, prompts=2)
    assert small.components[0].kept
    save(small, tmp_path / "small")
    loaded = resolve(f"test_prune:steps_of_one@{tmp_path / 'small'}")
    assert loaded.hash() == small.hash()
    with pytest.raises(BadInput, match="components of one module"):
        Int8Twin(whole, 2)
