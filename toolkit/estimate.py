"""What the export of a large component takes: memory, disk and time, said before it starts.

The factors are those that docs/large.md measured, rounded up; a component of another kind than its
U-Net may take more.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genedge.runtime.errors import EnvironmentFailed
from genedge.runtime.host import available_memory
from genedge.runtime.sampler import SamplerSpec

from .generator import Generator
from .pipeline import SampledGenerator, short
from .pipeline_precision import COMPARED, WAYS

LARGE = 250_000_000  # float32 bytes of a component, from which on the export says what it takes
_BASE = 700_000_000  # bytes of Python and its libraries
# Peak of the exporting or of the verifying process, the larger one: bytes per float32 byte of the
# largest component.
_PEAK = {
    ("onnx", "fp32"): 2.5,
    ("onnx", "fp16"): 2.5,
    ("onnx", "int8"): 2.5,
    ("openvino", "fp32"): 2.5,
    ("openvino", "fp16"): 2.5,
    ("openvino", "int8"): 2.5,
    ("executorch", "fp32"): 4.0,
    ("executorch", "int8"): 4.0,
}
_STORED = {"fp32": 1.0, "fp16": 0.5, "int8": 0.3}  # bytes of the files per float32 byte
# Seconds of lowering and writing: always, and per GB of float32 weights.
_LOWERING = {"onnx": (40.0, 10.0), "openvino": (40.0, 10.0), "executorch": (200.0, 100.0)}
# More of it under int8, per GB of float32 weights: steps of the weights and conversion, once; lowering
# of the longer graph, for each target.
_CONVERTING, _LOWERING_INT8 = 90.0, 50.0
_OBSERVED = 2.0  # a run through observers, or of the simulation, in runs of the float module


@dataclass(frozen=True)
class Estimate:
    """component: the largest, of `parameters` numbers. memory, disk: bytes. lowering: seconds.

    runs: of the denoiser (of a generator of one pass: pictures), as many float ones as would take
    as long. available: bytes of memory, None where the system does not say.
    """

    component: str
    parameters: int
    memory: int
    disk: int
    lowering: float
    runs: float
    available: int | None

    @property
    def large(self) -> bool:
        """Whether it is worth a word."""
        return 4 * self.parameters >= LARGE

    def text(self, run_seconds: float) -> str:
        """One line for people. run_seconds: that one run of the float module takes here."""
        have = f" of {self.available / 1e9:.1f} GB available" if self.available else ""
        minutes = (self.lowering + self.runs * run_seconds) / 60
        return (
            f"{self.component}: {self.parameters / 1e6:,.0f} M parameters; about "
            f"{self.memory / 1e9:.1f} GB of memory{have}, {self.disk / 1e9:.1f} GB of disk, "
            f"{minutes:,.0f} minutes ({self.runs:,.0f} runs of {run_seconds:.1f} s)"
        )


def estimated(generator: Generator, targets: Sequence[str], precision: str) -> Estimate:
    """What one export for all of `targets` takes."""
    sizes = {
        c.name: sum(t.numel() for t in c.module.state_dict().values()) for c in generator.components
    }
    largest = max(sizes, key=lambda name: sizes[name])
    factor = max(_PEAK[t, precision] for t in targets)
    every = 4 * sum(sizes.values())
    gigabytes = every / 1e9
    pictures = len(generator.golden)
    calls = 1
    if isinstance(generator, SampledGenerator) and generator.sampler is not None:
        calls = _calls(generator.sampler)
    lowering = sum(a + b * gigabytes for a, b in (_LOWERING[t] for t in targets))
    walks = 1.0 + pictures + len(targets) * (pictures + 1)
    if precision == "int8":
        lowering += (_CONVERTING + _LOWERING_INT8 * len(targets)) * gigabytes
        # Calibration; the ways to set ranges, beside float; golden pictures simulated.
        walks += len(generator.calibration[:128]) * _OBSERVED
        walks += COMPARED * (1 + len(WAYS) * _OBSERVED) + pictures * _OBSERVED
    return Estimate(
        component=largest,
        parameters=sizes[largest],
        memory=int(_BASE + factor * 4 * sizes[largest]),
        disk=int(every * _STORED[precision] * len(targets)),
        lowering=lowering,
        runs=walks * calls,
        available=available_memory(),
    )


def _calls(spec: SamplerSpec) -> int:
    """Runs of the denoiser for one picture."""
    return len(spec.walk().timesteps) * (2 if spec.guided else 1)


def run_seconds(generator: Generator) -> float:
    """Seconds that one run takes here: of a pipeline's example, by the runs of its denoiser."""
    began = time.perf_counter()
    generator.example()
    took = time.perf_counter() - began
    spec = generator.sampler if isinstance(generator, SampledGenerator) else None
    return took / _calls(short(spec)) if spec else took


def check_room(estimate: Estimate, precision: str, targets: Sequence[str], out: Path) -> None:
    """Raises EnvironmentFailed where a large component would not fit in memory or on the disk."""
    if not estimate.large:
        return
    what = f"{estimate.component} for {', '.join(targets)} as {precision}"
    if estimate.available is not None and estimate.memory > estimate.available:
        raise EnvironmentFailed(
            f"{what} needs about {estimate.memory / 1e9:.1f} GB of memory, "
            f"{estimate.available / 1e9:.1f} GB are available; close other programs, take another "
            f"machine, or another target (nothing was written)"
        )
    folder = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if estimate.disk > free:
        raise EnvironmentFailed(
            f"{what} needs about {estimate.disk / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are "
            f"free; name another --out (nothing was written)"
        )
