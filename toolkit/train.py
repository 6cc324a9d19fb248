"""Long work in phases: each can be stopped at any step and resumed at its last checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

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


def _save(path: Path, step: int, state: Mapping[str, Stateful]) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save({"step": step, **{k: v.state_dict() for k, v in state.items()}}, partial)
    partial.replace(path)


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
    report.
    """
    work.mkdir(parents=True, exist_ok=True)
    path, log = work / f"{name}.pt", work / f"{name}.jsonl"
    first = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first = int(saved["step"])
        for key, part in state.items():
            part.load_state_dict(saved[key])
    if first >= steps:
        return
    sums: dict[str, float] = {}
    count, last_save, began = 0, time.monotonic(), time.monotonic()
    step = first
    try:
        for step in range(first, steps):
            for key, value in one_step(step).items():
                sums[key] = sums.get(key, 0.0) + float(value)
            count += 1
            done = step + 1
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
            _save(path, step, state)
        raise
    if writes:
        _save(path, steps, state)
