"""Weights that are mapped from a file can be let go, and are read again."""

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genedge.toolkit.mapped import let_go

SIDE = 3000


def resident():
    """Bytes of this process's mapped files that are in memory."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssFile:")[1].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_mapped_weights_are_let_go_and_read_again(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.manual_seed(0)
    true = torch.randn(SIDE, SIDE)
    save_file({"a": true}, path)
    os.sync()  # what is not written out yet can not be let go
    weight = load_file(path)["a"]
    total = float(weight.double().sum())
    size = 4 * SIDE**2
    before = resident()
    assert let_go([weight, weight]) > 0.9 * size
    assert resident() < before - 0.8 * size
    assert float(weight.double().sum()) == total
    assert torch.equal(weight, true)


def test_small_tensors_are_left_alone():
    assert let_go([torch.ones(10), torch.empty(0)]) == 0
