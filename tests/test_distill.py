"""A student comes to draw what its teacher draws, and does so again from any step on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kinds
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Image, Text, other, tiny
from torch import nn

from genedge.runtime.errors import BadInput
from genedge.toolkit import distill as distillation
from genedge.toolkit import losses
from genedge.toolkit.distill import distill, student_of
from genedge.toolkit.drawings import batch_of, psnr_to
from genedge.toolkit.features import Projections, Taps, matched
from genedge.toolkit.generator import Generator
from genedge.toolkit.models import resolve
from genedge.toolkit.own import generator_of, image
from genedge.toolkit.prune import prune
from genedge.toolkit.verbs import shrink


def fresh() -> dict[str, nn.Module]:
    torch.manual_seed(5)
    return {"text": Text(), "image": Image()}


def wrong() -> dict[str, nn.Module]:
    return {"text": Text()}


def broken() -> dict[str, nn.Module]:
    raise ValueError("weights missing")


def one_channel() -> dict[str, nn.Module]:
    made = fresh()
    made["image"].exit = nn.Conv2d(4, 1, 3, padding=1)
    return made


def narrow() -> dict[str, nn.Module]:
    return fresh() | {"image": nn.Conv2d(5, 4, 1)}


def blurred(count: int = 12) -> Generator:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    pictures = np.random.default_rng(count).integers(0, 255, (count, 12, 12, 3), np.uint8)
    return generator_of(
        net,
        inputs={"small": image(3, 12, 12)},
        output=(0, 1),
        images={"small": pictures},
        golden=4,
        name="net-v1.5",
    )


def learned(tmp_path, student=None, teacher=None, **options):
    teacher = teacher or kinds.norms()
    student = student or prune(teacher, ratio=0.5, importance="magnitude", prompts=4)
    options = {"steps": 60, "batch": 8, "rate": 2e-3} | options
    made = distill(teacher, student, work=tmp_path, **options)
    return psnr_to(teacher, student), psnr_to(teacher, made), made


@pytest.mark.parametrize("make", [kinds.norms, kinds.transposed])
def test_a_pruned_generator_recovers(make, tmp_path):
    teacher = make()
    before, after, made = learned(tmp_path, teacher=teacher)
    assert after > before + 3
    assert [row["pass"] for row in made.history] == ["prune", "distill"]
    assert all(not c.module.training for c in made.components)


@pytest.mark.parametrize("name", ["output", "features", "bands", "relations", "adversarial"])
def test_each_loss_alone_teaches(name, tmp_path):
    weights = dict.fromkeys(losses.WEIGHTS, 0.0) | {name: 1.0}
    _before, _, made = learned(tmp_path, losses=weights, steps=40)
    assert made.components[0].module.conv1.weight.isfinite().all()
    rows = [json.loads(r) for r in (tmp_path / "distill.jsonl").read_text().splitlines()]
    assert set(rows[-1]) == {"step", "seconds", "loss", name}


def test_the_student_starts_from_nothing_by_a_constructor(tmp_path):
    teacher = tiny()
    student = student_of("test_distill:fresh", teacher)
    before = psnr_to(teacher, student)
    made = distill(teacher, student, work=tmp_path, steps=150, batch=8, rate=3e-3)
    assert psnr_to(teacher, made) > before + 3
    assert made.constructor == "test_distill:fresh"


def test_only_the_named_components_learn(tmp_path):
    teacher = tiny()
    student = student_of("test_distill:fresh", teacher)
    made = distill(teacher, student, work=tmp_path, steps=3, batch=4, components=["image"])
    same = [
        all(
            torch.equal(p, q)
            for p, q in zip(a.module.parameters(), b.module.parameters(), strict=True)
        )
        for a, b in zip(student.components, made.components, strict=True)
    ]
    assert same == [True, False]


def test_an_interrupted_distillation_ends_where_the_whole_one_does(tmp_path, monkeypatch):
    weights = dict.fromkeys(losses.WEIGHTS, 1.0)
    _, _, whole = learned(tmp_path / "a", steps=10, losses=weights)
    step, calls = distillation._Run.step, []

    def stop(self, at):
        calls.append(at)
        if at == 6 and len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, at)

    monkeypatch.setattr(distillation._Run, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        learned(tmp_path / "b", steps=10, losses=weights)
    _, _, resumed = learned(tmp_path / "b", steps=10, losses=weights)
    assert calls[6:9] == [6, 6, 7]
    assert resumed.hash() == whole.hash()


def test_another_seed_gives_other_drawings_and_the_same_seed_the_same():
    teacher = kinds.norms()
    one, same, other = (batch_of(teacher, teacher.calibration, seed, 3, 4) for seed in (0, 0, 1))
    assert all((a["code"] == b["code"]).all() for a, b in zip(one, same, strict=True))
    assert any((a["code"] != b["code"]).any() for a, b in zip(one, other, strict=True))


def test_golden_prompts_are_never_learned_from(tmp_path, monkeypatch):
    teacher, seen = tiny(), set()
    real = distillation.batch_of

    def watch(teacher, prompts, *rest):
        seen.update(prompts)
        return real(teacher, prompts, *rest)

    monkeypatch.setattr(distillation, "batch_of", watch)
    distill(teacher, tiny(), work=tmp_path, steps=1, batch=2, prompts=[teacher.golden[0], "new"])
    assert "new" in seen
    assert not seen & set(teacher.golden)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": {"luck": 1.0}}, "loss 'luck' is unknown"),
        ({"losses": {"output": -1.0}}, "use 0 or more"),
        ({"losses": {"output": float("nan")}}, "use 0 or more"),
        ({"losses": dict.fromkeys(losses.WEIGHTS, 0.0)}, "nothing to learn"),
        ({"components": ["sound"]}, "component 'sound' is unknown"),
        ({"student": kinds.transposed()}, "takes other inputs"),
        ({"rate": 0.0}, "a rate of 0 teaches nothing"),
        ({"rate": float("nan")}, "a rate of nan teaches nothing"),
        ({"rate": float("inf")}, "a rate of inf teaches nothing"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, tmp_path):
    student = options.pop("student", kinds.norms())
    with pytest.raises(BadInput, match=message):
        distill(kinds.norms(), student, work=tmp_path, **{"steps": 1} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1e30}, r"a rate of 1e\+30 teaches nothing"),
        ({"prompts": ["red apple", ", flat style"]}, "prompt ', flat style': "),
    ],
)
def test_what_would_fail_on_the_way_or_teach_nothing_is_refused(options, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        distill(tiny(), other(), work=tmp_path, steps=4, batch=2, **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"styles": ("soft", "flat")}, "draws styles"),
        ({"layout": "rgba"}, "draws layout rgba, tiny rgba-premultiplied"),
    ],
)
def test_a_student_that_means_something_else_is_refused(changed, message, tmp_path):
    student = tiny()
    student = replace(student, signature=replace(student.signature, **changed))
    with pytest.raises(BadInput, match=message):
        distill(tiny(), student, work=tmp_path, steps=1)
    low = replace(tiny().signature.output, low=-1.0)
    student = replace(tiny(), signature=replace(tiny().signature, output=low))
    with pytest.raises(BadInput, match="draws values from and to"):
        distill(tiny(), student, work=tmp_path, steps=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "test_distill:broken raised ValueError: weights missing"),
        ("one_channel", r"draws \[1, 1, 16, 16\], tiny \[1, 4, 16, 16\]"),
        ("narrow", "can not be run on what tiny takes"),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_student_that_can_not_draw_it_is_refused_before_the_first_step(
    function, message, batch, tmp_path
):
    with pytest.raises(BadInput, match=message):
        distill(
            tiny(),
            student_of(f"test_distill:{function}", tiny()),
            work=tmp_path,
            steps=1,
            batch=batch,
        )
    assert not list(tmp_path.iterdir())


def test_a_student_of_pictures_takes_those_of_its_teacher(tmp_path):
    teacher, student = blurred(24), blurred()
    made = distill(teacher, student, work=tmp_path, steps=2, batch=4)
    assert made.pictures == teacher.pictures
    assert made.example().keys() == teacher.example().keys()
    assert [c.name for c in made.components] == ["net-v1_5"]
    with pytest.raises(BadInput, match=r"net-v1_5.2: kept as asked"):
        prune(teacher, ratio=0.5, keep=["net-v1_5.2"])
    dotted = replace(teacher.components[0], name="net-v1.5")
    with pytest.raises(BadInput, match="holds no dot"):
        replace(teacher, components=(dotted,))


def test_a_constructor_without_a_component_is_refused():
    with pytest.raises(BadInput, match="makes no component 'image'"):
        student_of("test_distill:wrong", tiny())


def test_checkpoints_of_other_settings_are_not_gone_on_with(tmp_path):
    learned(tmp_path, steps=2)
    with pytest.raises(BadInput, match="a run with other settings"):
        learned(tmp_path, steps=3)
    learned(tmp_path / "words", steps=2, prompts=["red apple"])
    with pytest.raises(BadInput, match="a run with other settings"):
        learned(tmp_path / "words", steps=2, prompts=["blue apple"])


@given(st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_haar_keeps_the_energy_and_flat_pictures_have_no_high_band(levels, seed):
    x = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(seed))
    low, high = losses.haar(x)
    total = low.square().sum() + high.square().sum()
    assert torch.isclose(total, x.square().sum(), rtol=1e-4)
    flat = torch.full((1, 3, 8, 8), 0.7)
    assert losses.haar(flat)[1].abs().max() < 1e-6
    assert losses.band_loss(x, x, levels) == 0
    assert losses.band_loss(x + 5, x, levels) < 1e-5
    assert losses.band_loss(-x, x, levels) > 0


def test_relations_see_a_collapse_that_the_mean_does_not():
    x = torch.randn(6, 3, 16, 16)
    assert losses.relation_loss(x, x) == 0
    assert losses.relation_loss(3 * x + 1, x) < 1e-6
    assert losses.relation_loss(x[:1].repeat(6, 1, 1, 1) + 0.01 * x.flip(0) ** 3, x) > 1e-4
    assert losses.relation_loss(x[:1], x[:1]) == 0


def test_layers_are_matched_by_name_and_projected_where_channels_differ():
    teacher = {
        "c.a": torch.randn(4, 8, 5, 5),
        "c.b": torch.randn(4, 6),
        "d.x": torch.randn(4, 8, 2, 2),
    }
    student = {
        "c.a": torch.randn(4, 4, 5, 5),
        "c.b": torch.randn(4, 6),
        "d.y": torch.randn(4, 2, 2, 2),
    }
    pairs = matched(teacher, student)
    assert [(p.teacher, p.student) for p in pairs] == [
        ("c.a", "c.a"),
        ("c.b", "c.b"),
        ("d.x", "d.y"),
    ]
    projections = Projections(pairs, teacher, student)
    assert sorted(projections.layers) == ["0", "2"]
    for s, t, _ in projections(teacher, student):
        assert s.shape == t.shape


def test_linear_layers_over_tokens_are_compared_by_channels():
    seen = []
    for width in (8, 6):
        taps = Taps()
        layers = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4))
        taps.listen("c", layers)
        layers(torch.randn(2, 10, 4))
        taps.close()
        seen.append(taps.seen)
    pairs = matched(*seen)
    assert [p.teacher for p in pairs] == ["c.0", "c.1"]
    both = Projections(pairs, *seen)(*seen)
    assert [tuple(s.shape) for s, _, _ in both] == [tuple(t.shape) for _, t, _ in both]
    assert both[0][1].shape == (2, 10, 8)


def test_a_projection_starts_as_the_best_one():
    s = torch.randn(4, 4, 9, 9)
    mix = torch.randn(8, 4)
    t = torch.einsum("oc,bchw->bohw", mix, s) + 2
    projections = Projections(matched({"c.a": t}, {"c.a": s}), {"c.a": t}, {"c.a": s})
    ((mine, theirs, _),) = projections({"c.a": t}, {"c.a": s})
    assert (mine - theirs).abs().mean() < 1e-2


def command(*words, launch=()):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launch, "-m", "genedge.toolkit.cli", *map(str, words)],
        capture_output=True, text=True, env=env,
    )  # fmt: skip


def test_the_verbs_prune_then_distill(tmp_path):
    done = command(
        "prune", "kinds:norms", "--ratio", "0.5", "--recover", "20", "--batch", "4",
        "--out", tmp_path / "small",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "image.entry: left alone: the first convolution" in done.stdout
    assert "dB after recovery" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]
    done = command(
        "distill", "kinds:norms", "--student", f"kinds:norms@{tmp_path / 'small'}", "--steps", "5",
        "--batch", "4", "--tensorboard", tmp_path / "log", "--json", "--out", tmp_path / "better",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 5
    assert list((tmp_path / "log").iterdir())
    assert resolve(f"kinds:norms@{tmp_path / 'better'}").history[-1]["pass"] == "distill"


def test_what_is_wrong_with_a_command_is_said_before_the_work(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("red apple, flat style\n, flat style\n")
    tail = ("--ratio", "0.3", "--recover", "3", "--batch", "2")
    for words, message in (
        (("prune", "tiny:tiny", *tail, "--out", tmp_path / "mine", "--force"), "choose another"),
        (("prune", "tiny:tiny", *tail, "--out", tmp_path / "file/a"), "can not be written"),
        (("prune", "tiny:tiny", *tail, "--work", tmp_path / "file"), "is a file"),
        (("prune", "tiny:tiny", *tail, "--loss", "luck=1"), "loss 'luck' is unknown"),
        (("prune", "tiny:tiny", *tail, "--rate", "-1"), "a rate of -1"),
        (("prune", "tiny:tiny", *tail, "--prompts", tmp_path / "file"), "prompt ', flat style':"),
        (("distill", "tiny:tiny", "--student", "tiny:other", "--seed", 2**63), "--seed"),
        (("distill", "tiny:tiny", "--student", "test_distill:broken"), "weights missing"),
        (("distill", ":tiny", "--student", "tiny:other"), "can not be imported"),
    ):
        done = command(*words, *(() if "--out" in words else ("--out", tmp_path / "out")))
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


def test_a_long_prompt_says_once_what_is_not_learned(tmp_path):
    (tmp_path / "prompts").write_text("red " * 30 + "\n")
    done = command(
        "distill", "tiny:tiny", "--student", "tiny:other", "--steps", "4", "--batch", "2",
        "--prompts", tmp_path / "prompts", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("genedge: warning:") == 1
    assert "(6 golden prompts)" in done.stdout


def test_a_finished_run_removes_its_checkpoints_and_nothing_else(tmp_path):
    for name in (*distillation.FILES, "notes.txt"):
        (tmp_path / name).write_text("")
    shrink._clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    shrink._clear(tmp_path)
    assert not tmp_path.exists()


def test_two_processes_take_the_steps_of_one(tmp_path):
    pytest.importorskip("accelerate")
    words = [
        "distill", "tiny:other", "--student", "test_distill:fresh", "--steps", "8", "--batch", "4",
        "--loss", "relations=0", "--out",
    ]  # fmt: skip
    launch = (
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes",
        "2", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    )  # fmt: skip
    for name, start in (("one", ()), ("two", launch)):
        done = command(*words, tmp_path / name, launch=start)
        assert done.returncode == 0, done.stderr
    one, two = (resolve(f"test_distill:fresh@{tmp_path / n}") for n in ("one", "two"))
    before = student_of("test_distill:fresh", one)
    was, alone, shared = (
        torch.cat([p.detach().flatten() for c in g.components for p in c.module.parameters()])
        for g in (before, one, two)
    )
    # Sums are added in another order, and Adam makes much of the least gradients.
    assert (shared - alone).norm() < 0.02 * (alone - was).norm()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune", "kinds:norms"], "give one of"),
        (["prune", "kinds:norms", "--ratio", "2"], "out of range"),
        (["prune", "kinds:norms", "--target-macs", "5"], "out of reach"),
        (["prune", "kinds:norms", "--ratio", "0.5", "--loss", "bands"], "write NAME=WEIGHT"),
        (["prune", "kinds:norms", "--ratio", "0.5", "--prompts", "none.txt"], "can not be read"),
        (["distill", "kinds:norms"], "--student"),
        (["distill", "kinds:norms", "--student", "kinds:transposed"], "takes other inputs"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_the_verbs_refuse_in_one_line(words, message, tmp_path):
    done = command(*words, "--quiet", "--out", tmp_path / "x")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def with_dropout() -> dict[str, nn.Module]:
    made = fresh()
    made["image"].exit = nn.Sequential(nn.Dropout(0.5), made["image"].exit, nn.BatchNorm2d(4))
    return made


def test_an_untrained_student_draws_without_dropout_until_it_learns(tmp_path):
    student = student_of("test_distill:with_dropout", tiny())
    assert not any(c.module.training for c in student.components)
    before = student.hash()
    distill(tiny(), student, work=tmp_path, steps=2, batch=4)
    assert student.hash() == before


def test_processes_with_other_students_each_are_refused(tmp_path, monkeypatch):
    apart = distillation.Processes(0, 2, torch.device("cpu"), lambda x: x + 0.5)
    monkeypatch.setattr(distillation, "launched", lambda: apart)
    with pytest.raises(BadInput, match="the processes hold different students"):
        distill(tiny(), student_of("test_distill:fresh", tiny()), work=tmp_path, steps=2, batch=4)
