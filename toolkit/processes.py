"""One process or many: what distillation needs to know of `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genedge.runtime.errors import EnvironmentFailed, MissingProgram


@dataclass(frozen=True)
class Processes:
    """index: of this process among `count`. mean: of one tensor over all processes."""

    index: int
    count: int
    device: torch.device
    mean: Callable[[Tensor], Tensor]

    def share(self, size: int) -> range:
        """The samples of a batch of this size that are this process's. All get as many."""
        return range(self.index, size, self.count)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes its mean over all processes: that of the whole batch."""
        if self.count == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in grads]))
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def launched() -> Processes:
    """The processes that `accelerate launch` started, or this one alone on the CPU.

    Raises MissingProgram where started by it and accelerate is not importable, EnvironmentFailed
    where the processes do not see one another.
    """
    if not any(k.startswith("ACCELERATE_") for k in os.environ) and "LOCAL_RANK" not in os.environ:
        return Processes(0, 1, torch.device("cpu"), lambda x: x)
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingProgram(
            "accelerate is not installed; run: pip install 'genedge[distill]'"
        ) from None
    # Without a GPU accelerate would let each process believe that it is alone.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise EnvironmentFailed(
            f"{started} processes were started, and accelerate sees {accelerator.num_processes}"
        )
    return Processes(
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
        lambda x: accelerator.reduce(x, reduction="mean"),
    )
