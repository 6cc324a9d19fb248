"""Long work in phases: each can be stopped at any step and resumed at its last checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from genedge.runtime.errors import BadInput, EnvironmentFailed
from genedge.runtime.files import replacing

SETTINGS = "settings.json"
Report = Callable[[str, int, int, Mapping[str, float]], None]


class Stateful(Protocol):
    """A module, an optimizer, an EMA: what a checkpoint saves."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Average:
    """Exponential moving average of tensors, by name.

    The decay rises with the count of updates, as in TensorFlow's ExponentialMovingAverage:
    min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], decay: float = 0.999) -> None:
        self.tensors = {k: v.detach().clone() for k, v in tensors.items()}
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Moves each average towards the tensor of its name."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        torch._foreach_lerp_(
            list(self.tensors.values()), [tensors[k].detach() for k in self.tensors], 1 - decay
        )

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        for name, value in state["tensors"].items():
            self.tensors[name].copy_(value)
        self.count = state["count"]


def adam(*groups: tuple[Iterable[torch.nn.Parameter], float]) -> torch.optim.Adam:
    """Adam with betas of 0.9 and 0.99; each group: parameters and their rate, kept as `base`."""
    rows = [{"params": list(p), "lr": rate, "base": rate} for p, rate in groups]
    return torch.optim.Adam(rows, betas=(0.9, 0.99), fused=True)


def fast() -> AbstractContextManager[object]:
    """bfloat16 where the processor multiplies matrices of it (AMX); float32 elsewhere.

    With AVX-512's bfloat16 alone a step of `emoji` takes 1.3 times as long as in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def falling(step: int, steps: int, flat: float = 0.5, last: float = 0.01) -> float:
    """Factor of the learning rate: 1 for the first `flat` of the steps, then linear to `last`."""
    done = step / steps
    return 1.0 if done < flat else 1 + (last - 1) * (done - flat) / (1 - flat)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's rate becomes its own `base` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor


def remember(work: Path, settings: Mapping[str, Any]) -> None:
    """Writes down what the run in this folder is of. Raises BadInput where checkpoints of another
    run lie there, and where the folder can not be made."""
    make_folder(work)
    path, text = work / SETTINGS, json.dumps(settings, sort_keys=True)
    known = path.read_text() if path.is_file() else ""
    if known == text:
        return
    if any(work.glob("*.pt")):
        raise BadInput(f"{work} holds a run with other settings; remove it, or name another --work")
    with replacing(path) as partial:
        partial.write_text(text)


def make_folder(work: Path) -> None:
    """Makes the folder of checkpoints. Raises BadInput where it can not be one."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BadInput(f"{work} can not be a folder ({problem.strerror}); name another") from None


def _save(path: Path, step: int, state: Mapping[str, Stateful]) -> None:
    try:
        with replacing(path) as partial:
            torch.save({"step": step, **{k: v.state_dict() for k, v in state.items()}}, partial)
    except RuntimeError as problem:  # how torch says that it could not write
        raise EnvironmentFailed(
            f"{path} could not be written; is the disk full? Free some space and run it again"
        ) from problem


def run_phase(
    name: str,
    work: Path,
    steps: int,
    state: Mapping[str, Stateful],
    one_step: Callable[[int], Mapping[str, torch.Tensor]],
    report: Report,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    save_seconds: float = 180,
    log_every: int = 100,
    evaluate_every: int = 4000,
    writes: bool = True,
) -> None:
    """Runs `one_step` for each step that is not done yet; returns at once where all are.

    state: what one_step changes; saved under `work` every `save_seconds`, at the end and when
    interrupted. one_step returns scalars, whose means are reported and appended to
    `<name>.jsonl`. Checkpoints are read with weights_only=True. writes: False in all but one of
    several processes that take the same steps: these read the checkpoint, and neither write nor
    report. Raises BadInput where a scalar is not finite or the checkpoint is damaged, and what
    `make_folder` raises.
    """
    make_folder(work)
    path, log = work / f"{name}.pt", work / f"{name}.jsonl"
    first = 0
    if path.exists():
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            first = int(saved["step"])
        except (MemoryError, PermissionError):
            raise
        except Exception as problem:
            raise BadInput(f"{path} is damaged ({problem!r:.120}); remove it") from None
        for key, part in state.items():
            part.load_state_dict(saved[key])
    if first >= steps:
        return
    sums: dict[str, float] = {}
    count, last_save, began = 0, time.monotonic(), time.monotonic()
    done = first
    try:
        for step in range(first, steps):
            row = {key: float(value) for key, value in one_step(step).items()}
            done = step + 1
            for key, value in row.items():
                if not math.isfinite(value):
                    raise BadInput(
                        f"{name}: {key} is {value} at step {done}: training has diverged; use a "
                        f"lower rate, and begin anew in another folder of checkpoints"
                    )
                sums[key] = sums.get(key, 0.0) + value
            count += 1
            if not writes:
                continue
            if done % log_every == 0 or done == steps:
                row = {k: v / count for k, v in sums.items()}
                row["seconds"] = time.monotonic() - began
                if evaluate is not None and (done % evaluate_every == 0 or done == steps):
                    row |= evaluate()
                report(name, done, steps, row)
                with log.open("a") as f:
                    f.write(json.dumps({"step": done, **row}) + "\n")
                sums, count = {}, 0
            if time.monotonic() - last_save > save_seconds:
                _save(path, done, state)
                last_save = time.monotonic()
    except KeyboardInterrupt:
        if writes:
            _save(path, done, state)
        raise
    if writes:
        _save(path, steps, state)
