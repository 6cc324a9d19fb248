"""Killed at a random moment, export and verify leave nothing half-written (the benchmark kills.py
does this twenty times, adopt and tune included; tune's own kill is in test_tune.py)."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_kills_leave_everything_whole(tmp_path):
    code = (
        "import sys; from pathlib import Path; from kills import run\n"
        "run(2, 1, Path(sys.argv[1]), ('export', 'verify'))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, cwd=HERE / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["export", "verify"]
    assert all(line.endswith("whole") for line in lines)


def test_a_half_written_artifact_is_noticed(artifacts, tmp_path):
    """The benchmark's own check can fail."""
    import shutil

    import pytest

    from genedge.runtime.errors import GenedgeError

    sys.path.insert(0, str(HERE / "benchmarks"))
    from kills import clean, whole

    folder = shutil.copytree(artifacts["onnx", "fp32"], tmp_path / "a")
    whole(folder)
    (tmp_path / ".a.partial-1").mkdir()
    with pytest.raises(AssertionError, match=r"\.a\.partial-1"):
        clean(tmp_path)
    (folder / "golden.npz").write_bytes((folder / "golden.npz").read_bytes()[:100])
    with pytest.raises(GenedgeError, match=r"golden\.npz has 100 bytes"):
        whole(folder)
