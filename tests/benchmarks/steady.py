"""Do good artifacts pass every time? And how long does the page of a whole set take?

    genedge export --target all --precision fp32 --out artifacts
    genedge export --target all --precision int8 --out artifacts
    python tests/benchmarks/steady.py artifacts/* [--times 50]

Each time is a whole verdict, as a CI has it: limits on pictures and size, on peak memory, and on
the latency of int8 ÷ fp32 of the same target, compared with the first time's accepted verdict.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from genedge.runtime import host
from genedge.runtime.artifact import read_artifact
from genedge.runtime.baseline import accepted_text, baseline_path, compared
from genedge.runtime.budget import read_budget
from genedge.runtime.page import to_html
from genedge.runtime.verify import verify

RATIO = 0.9


def budget_of(folders: list[Path], path: Path) -> None:
    """Size and memory with a tenth to spare; int8 faster than RATIO × fp32 where both are there."""
    artifacts = {f.name: read_artifact(f) for f in folders}
    lines = []
    for artifact in artifacts.values():
        lines.append(f'[limits."{artifact.name}".{artifact.target}.{artifact.precision}]')
        lines += [f"max_bytes = {round(artifact.bytes * 1.1)}", "max_peak_memory = 2_000_000_000"]
        base = f"{artifact.name}-{artifact.target}-fp32"
        if artifact.precision == "int8" and base in artifacts:
            cpu = host.cpu_profile()
            ratio = f'{{ to = "{base}", ratio = {RATIO}, cpu = "{cpu}" }}'
            lines.append(f"max_latency_ratio = {ratio}")
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--times", type=int, default=50)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "genedge.toml"
        budget_of(words.folders, path)
        budget, accepted = read_budget(path), baseline_path(path)
        red: Counter[str] = Counter()
        undecided: Counter[str] = Counter()
        for i in range(words.times):
            began = time.perf_counter()
            found = compared(verify(words.folders, budget=budget), accepted)
            if i == 0:
                accepted.write_text(accepted_text(found, accepted))
            red.update(f"{r.artifact} {r.metric}" for r in found.failed)
            undecided.update(
                f"{r.artifact} {r.metric}" for r in found.rows if r.state == "inconclusive"
            )
            seconds = time.perf_counter() - began
            print(f"{i + 1}: {len(found.failed)} red, {seconds:.0f} s", flush=True)
        began = time.perf_counter()
        page = to_html(verify(words.folders, timed=True))
        seconds = time.perf_counter() - began
    print(
        f"{words.times} times: red {dict(red) or 'never'}; inconclusive {dict(undecided) or 'never'}"
    )
    print(f"verify with the page: {seconds:.0f} s; the page: {len(page.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
