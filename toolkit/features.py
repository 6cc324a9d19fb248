"""Which layers of a student are compared with which of its teacher, and through what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

LAYERS = 4  # compared in each component, spread from its first layer to its last


@dataclass(frozen=True)
class Pair:
    """A layer of the teacher and one of the student, each as "component.layer"."""

    teacher: str
    student: str


@dataclass
class Taps:
    """Outputs of layers, (N, channels, …), noted while their components run."""

    seen: dict[str, Tensor] = field(default_factory=dict)
    handles: list = field(default_factory=list)

    def listen(self, component: str, module: nn.Module, names: Sequence[str] | None = None) -> None:
        """names: layers to note; all convolutions and linear layers where None."""
        for name, layer in module.named_modules():
            wanted = isinstance(layer, (_ConvNd, nn.Linear)) if names is None else name in names
            if wanted and name:
                self.handles.append(layer.register_forward_hook(self._note(f"{component}.{name}")))

    def _note(self, key: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            out = out.float()  # half as precise on the way: see train.fast
            tokens = isinstance(module, nn.Linear) and out.dim() > 2  # channels last
            self.seen[key] = out.movedim(-1, 1) if tokens else out

        return hook

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def _places(x: Tensor) -> tuple[int, ...]:
    """The shape without its channels: what must agree."""
    return (x.shape[0], *x.shape[2:]) if x.dim() > 2 else (x.shape[0],)


def _spread(items: list[Pair], count: int) -> list[Pair]:
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def matched(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> list[Pair]:
    """Pairs of layers whose outputs can be compared; keys are "component.layer", in order of call.

    By name where the places (all but the channels) agree. A component that shares no name is
    matched by place: the last layer of each size in the one with that of the same in the other.
    """
    found: list[Pair] = []
    for component in dict.fromkeys(k.split(".")[0] for k in teacher):
        mine = {k: v for k, v in teacher.items() if k.split(".")[0] == component}
        theirs = {k: v for k, v in student.items() if k.split(".")[0] == component}
        pairs = [Pair(k, k) for k in mine if k in theirs and _places(mine[k]) == _places(theirs[k])]
        if not pairs:
            sizes = {_places(v): k for k, v in theirs.items() if v.dim() == 4}
            last = {_places(v): k for k, v in mine.items() if v.dim() == 4}
            pairs = [Pair(k, sizes[p]) for p, k in last.items() if p in sizes]
        found += _spread(pairs, LAYERS)
    return found


class Projections(nn.Module):
    """1×1 projections from the student's channels to the teacher's, where they differ in number.

    Fitted to one batch by least squares, so that they do not push a pruned student about while they
    are still random; trained with it afterwards.
    """

    def __init__(
        self, pairs: Sequence[Pair], teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.layers = nn.ModuleDict()
        sizes = [teacher[p.teacher].detach().abs().mean().clamp(min=1e-6) for p in pairs]
        # Of one batch, for good: what is divided by must not depend on how batches are shared out.
        self.units: Tensor
        self.register_buffer("units", torch.stack(sizes))
        for i, pair in enumerate(self.pairs):
            t, s = teacher[pair.teacher].detach(), student[pair.student].detach()
            if t.shape == s.shape:
                continue
            layer = nn.Linear(_last(s).shape[-1], _last(t).shape[-1])
            x, y = (_last(v).reshape(-1, _last(v).shape[-1]).double() for v in (s, t))
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            ridge = 1e-4 * x.square().mean() * len(x) * torch.eye(x.shape[1], dtype=x.dtype).to(x)
            fit = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T.float()
            with torch.no_grad():
                layer.weight.copy_(fit[:, :-1])
                layer.bias.copy_(fit[:, -1])
            self.layers[str(i)] = layer

    def forward(
        self, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(student's projected, teacher's, the teacher's mean magnitude) for each pair."""
        both = []
        for i, pair in enumerate(self.pairs):
            t, s = teacher[pair.teacher].detach(), student[pair.student]
            if str(i) in self.layers:
                layer = self.layers[str(i)]
                s, t = F.linear(_last(s), layer.weight, layer.bias), _last(t)  # type: ignore[arg-type]
            both.append((s, t, self.units[i]))
        return both


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.dim() > 2 else x
