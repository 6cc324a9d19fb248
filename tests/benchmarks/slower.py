"""Does a latency limit catch an artifact that really is half as slow again?

    python tests/benchmarks/slower.py [--times 10]

The bundled `emoji` for ONNX Runtime gets a second piece of its decoder beside the first, with other
weights, whose result is multiplied by 0 and added: the same pictures, later. A limit of 1.25 × the
artifact that it was made from must fail it each time, and pass a plain copy each time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_known_bad import rewrite

from genedge.runtime import host
from genedge.runtime.budget import read_budget
from genedge.runtime.bundled import bundled
from genedge.runtime.verify import verify

LIMIT, SHARE = 1.25, 0.75  # of the decoder's convolutions that are computed twice


def slow_down(path: Path, share: float) -> None:
    """Adds 0 × a copy of the graph up to `share` of its convolutions to its output."""
    model = onnx.load(str(path))
    graph = model.graph
    count = sum(n.op_type == "Conv" for n in graph.node)
    seen, copied = 0, []
    for node in graph.node:
        seen += node.op_type == "Conv"
        if seen > share * count:
            break
        copied.append(node)
    made = {o for n in copied for o in n.output}
    weights = {t.name: t for t in graph.initializer}
    other: dict[str, str] = {}
    for name in {i for n in copied for i in n.input} & set(weights):
        values = numpy_helper.to_array(weights[name])
        if values.dtype == np.int8 and values.ndim == 4:  # else the runtime would merge both
            other[name] = f"{name}.other"
            rolled = np.ascontiguousarray(np.roll(values, 1, 0))
            graph.initializer.append(numpy_helper.from_array(rolled, other[name]))
    twins = []
    for node in copied:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}.other"
        del twin.input[:], twin.output[:]
        twin.input.extend(f"{i}.other" if i in made else other.get(i, i) for i in node.input)
        twin.output.extend(f"{o}.other" for o in node.output)
        twins.append(twin)
    last = next(n for n in reversed(copied) if n.op_type in ("Conv", "DequantizeLinear", "Relu"))
    picture = graph.output[0].name
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == picture:
                node.output[i] = f"{picture}.first"
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    graph.node.extend(
        [
            *twins,
            helper.make_node("ReduceMean", [f"{last.output[0]}.other"], ["other.mean"], keepdims=0),
            helper.make_node("Mul", ["other.mean", "nothing"], ["other.nothing"]),
            helper.make_node("Add", [f"{picture}.first", "other.nothing"], [picture]),
        ]
    )
    onnx.save(model, str(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as work:
        base = shutil.copytree(bundled("emoji", "onnx"), Path(work) / "base")
        same = shutil.copytree(base, Path(work) / "same")
        slow = shutil.copytree(base, Path(work) / "slow")
        slow_down(slow / "image.onnx", SHARE)
        rewrite(slow, lambda row: None)
        budget = Path(work) / "genedge.toml"
        ratio = f'{{ to = "{base}", ratio = {LIMIT}, cpu = "{host.cpu_profile()}" }}'
        budget.write_text(f"[limits.emoji.onnx.int8]\nmax_latency_ratio = {ratio}\n")
        failed: Counter[str] = Counter()
        other: Counter[str] = Counter()
        for i in range(times):
            report = verify([same, slow], budget=read_budget(budget))
            values = {r.artifact: r for r in report.rows if r.metric.startswith("latency_ratio")}
            failed.update(r.artifact for r in report.failed if r.metric.startswith("latency_ratio"))
            other.update(
                f"{r.artifact} {r.metric}"
                for r in report.failed
                if not r.metric.startswith("latency_ratio")
            )
            print(f"{i + 1}:", {n: (r.value, r.state) for n, r in values.items()}, flush=True)
    print(f"{times} times, limit {LIMIT} ×: failed {dict(failed)}; failed otherwise {dict(other)}")


if __name__ == "__main__":
    main()
