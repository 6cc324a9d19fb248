"""Sums of pairs in 16 bits: an exact emulation, which layers are at risk, and weights that are safe."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime_sums import cases, returned_by_onnxruntime

from genedge.runtime.host import cpu_has_vnni
from genedge.toolkit.quantize import quantize
from genedge.toolkit.saturation import HIGH, largest_pair, multiply, preflight


def test_the_emulation_is_what_this_cpu_returns():
    for a, w in cases():
        assert np.array_equal(
            multiply(a, w, saturate=not cpu_has_vnni()), returned_by_onnxruntime(a, w)
        )
        assert not np.array_equal(multiply(a, w), multiply(a, w, saturate=False))


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_the_emulation_is_what_a_cpu_without_vnni_returns(tmp_path):
    file = tmp_path / "sums.npz"
    script = Path(__file__).with_name("onnxruntime_sums.py")
    subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable), script, file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    with np.load(file) as arrays:
        for (a, w), name in zip(cases(), arrays.files, strict=True):
            assert np.array_equal(multiply(a, w), arrays[name])


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_sums_differ_only_where_a_pair_overflows(seed, k):
    random = np.random.default_rng(seed)
    a = random.integers(0, 256, (2, k)).astype(np.uint8)
    w = random.integers(-64, 64, (3, k)).astype(np.int8)
    assert np.array_equal(multiply(a, w), multiply(a, w, saturate=False))
    assert np.array_equal(multiply(a, w, False), a.astype(np.int32) @ w.T.astype(np.int32))


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="expected uint8 and int8"):
        multiply(np.zeros((1, 2), np.int8), np.zeros((1, 2), np.int8))
    with pytest.raises(ValueError, match="lengths differ"):
        multiply(np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.int8))


def int8_weights(quantized):
    for program in quantized.programs.values():
        for tensor in program.state_dict.values():
            if tensor.dtype == torch.int8 and tensor.dim() in (2, 4) and tensor.shape[0] != 320:
                yield tensor


def test_no_layer_of_the_portable_profile_can_overflow_and_some_of_the_others_can(generator):
    portable, vnni = (quantize(generator, cpu=c, calibration=4) for c in ("portable", "vnni"))
    assert [r for r in preflight(portable.graphs) if r.channels] == []
    risky = [r for r in preflight(vnni.graphs) if r.channels]
    assert {r.layer for r in risky} >= {"text.conv", "image.entry"}
    assert all(r.pair > HIGH for r in risky)
    for weight in int8_weights(portable):
        rows = weight.flatten(1).numpy()
        worst = np.where(rows > 0, 255, 0).astype(np.uint8)  # the input that makes each row largest
        assert np.array_equal(multiply(worst, rows), multiply(worst, rows, saturate=False))


def test_rows_that_can_not_overflow_keep_all_of_int8(generator):
    weights = list(int8_weights(quantize(generator, cpu="portable", calibration=4)))
    most = [int(w.flatten(1).abs().amax()) for w in weights]
    assert max(most) > 63
    assert all(int(largest_pair(w.int()).max()) * 255 <= HIGH for w in weights)
    assert {
        int(w.abs().max()) for w in int8_weights(quantize(generator, cpu="vnni", calibration=4))
    } == {127}


def test_a_pair_is_found_in_each_order():
    weight = torch.zeros(1, 4, 3, 3)
    weight[0, 2:4, 1, 1] = 100  # neighbours among channels
    assert float(largest_pair(weight)[0]) == 200
    weight = torch.zeros(1, 4, 3, 3)
    weight[0, 0, 0, :2] = 100  # neighbours along a row
    assert float(largest_pair(weight)[0]) == 200
    assert float(largest_pair(-weight)[0]) == 200
