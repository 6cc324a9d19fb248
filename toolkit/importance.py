"""How much a picture would miss each unit of channels: four ways to rank, each a plain function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from genedge.runtime.errors import BadInput

from .channels import squared_norms, width
from .dependency import Group, Unit

Inputs = Sequence[tuple[Tensor, ...]]
Scores = list[Tensor]  # per group, one number for each of its units
_WEIGHTED = (_ConvNd, nn.Linear)


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    """(N, channels): every place of every picture in a row of its own."""
    if isinstance(module, _ConvNd):
        return x.movedim(1, -1).reshape(-1, module.in_channels)
    return x.reshape(-1, x.shape[-1])


def _sum_over(unit: Unit, side: str, tables: dict[str, Tensor]) -> Tensor:
    found = [
        tables[name][..., list(ids)].sum(-1)
        for (name, s), ids in unit.items()
        if s == side and name in tables
    ]
    return torch.stack(found).sum(0) if found else torch.zeros(())


def _readers(model: nn.Module, groups: Iterable[Group]) -> dict[str, nn.Module]:
    """Layers that read channels of the groups."""
    names = {n for g in groups for u in g.units for n, side in u if side == "in"}
    found = {n: model.get_submodule(n) for n in sorted(names)}
    return {n: m for n, m in found.items() if isinstance(m, _WEIGHTED)}


def _watch(
    readers: dict[str, nn.Module], seen: Callable[[str, nn.Module, Tensor], None]
) -> list[torch.utils.hooks.RemovableHandle]:
    return [
        m.register_forward_pre_hook(
            lambda m, args, kwargs, n=n: seen(n, m, args[0] if args else kwargs["input"]),  # type: ignore[misc]
            with_kwargs=True,
        )
        for n, m in readers.items()
    ]


def magnitude(model: nn.Module, groups: Sequence[Group], inputs: Inputs) -> Scores:
    """Norm of all weights that a unit touches (Li et al., "Pruning filters", ICLR 2017)."""
    tables: dict[str, dict[str, Tensor]] = {"in": {}, "out": {}}
    for name, module in model.named_modules():
        if isinstance(module, _WEIGHTED):
            for side in ("in", "out"):
                if width(module, side):
                    tables[side][name] = squared_norms(module, side)
    return [
        torch.stack(
            [
                (_sum_over(u, "in", tables["in"]) + _sum_over(u, "out", tables["out"]))
                for u in g.units
            ]
        ).sqrt()
        for g in groups
    ]


@torch.no_grad()
def _of_readers(
    model: nn.Module,
    groups: Sequence[Group],
    inputs: Inputs,
    measure: Callable[[list[Tensor]], Tensor],
) -> Scores:
    readers = _readers(model, groups)
    seen: dict[str, list[Tensor]] = {n: [] for n in readers}

    def note(name: str, module: nn.Module, x: Tensor) -> None:
        seen[name].append(_channels_last(module, x.detach()))

    tables: dict[str, list[Tensor]] = {n: [] for n in readers}
    hooks = _watch(readers, note)
    try:
        for first, second in zip(inputs, [*inputs[1:], inputs[0]], strict=True):
            for each in (first, second):  # two at a time, so that memory does not grow with inputs
                model(*each)
            for name, values in seen.items():
                tables[name].append(measure(values))
                values.clear()
    finally:
        for hook in hooks:
            hook.remove()
    weighted = {
        n: torch.stack(rows).mean(0) * squared_norms(readers[n], "in") for n, rows in tables.items()
    }
    return [torch.stack([_sum_over(u, "in", weighted) for u in g.units]).sqrt() for g in groups]


def activation(model: nn.Module, groups: Sequence[Group], inputs: Inputs) -> Scores:
    """Root mean square of what a unit's readers get from it, times the norm of their weights.

    As Wanda weighs single weights (Sun et al., ICLR 2024), summed over a channel.
    """
    return _of_readers(model, groups, inputs, lambda x: torch.cat(x).square().mean(0))


def sensitivity(model: nn.Module, groups: Sequence[Group], inputs: Inputs) -> Scores:
    """How much that changes from one prompt, seed and style to the next.

    Channels that vary with the code and the text carry diversity and prompt following; large ones
    that never change are a bias (after DCP-GAN, "Diversity-aware channel pruning", CVPR 2023).
    """

    def change(x: list[Tensor]) -> Tensor:
        half = len(x) // 2
        return (torch.cat(x[:half]) - torch.cat(x[half:])).square().mean(0)

    return _of_readers(model, groups, inputs, change)


def taylor(model: nn.Module, groups: Sequence[Group], inputs: Inputs, probes: int = 2) -> Scores:
    """First-order estimate of the output's squared change when a unit becomes zero.

    Mean over inputs and random projections v of (Σ activation × ∂(v·output)/∂activation)²: needs
    no labels and no loss (after Molchanov et al., "Importance estimation", CVPR 2019).
    """
    readers = _readers(model, groups)
    random = torch.Generator().manual_seed(0)
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def note(name: str, module: nn.Module, x: Tensor) -> None:
        seen.append((name, module, x))

    totals = [torch.zeros(len(g.units)) for g in groups]
    hooks = _watch(readers, note)
    try:
        with torch.enable_grad():
            for each in inputs:
                seen.clear()
                out = model(*each)
                flat = torch.cat([o.flatten() for o in (out if isinstance(out, tuple) else (out,))])
                followed = [s for s in seen if s[2].requires_grad]
                scale = flat.detach().norm().clamp(min=1e-12)
                for probe in range(probes):
                    v = torch.randn(flat.shape, generator=random) / scale
                    grads = torch.autograd.grad(
                        flat @ v,
                        [x for _, _, x in followed],
                        retain_graph=probe + 1 < probes,
                        allow_unused=True,
                    )
                    tables: dict[str, Tensor] = {}
                    for (name, module, x), g in zip(followed, grads, strict=True):
                        if g is not None:
                            row = _channels_last(module, (x * g).detach()).sum(0)
                            tables[name] = tables[name] + row if name in tables else row
                    for total, group in zip(totals, groups, strict=True):
                        row = torch.stack([_sum_over(u, "in", tables) for u in group.units])
                        total += row.square()
    except RuntimeError as problem:  # x += y on what gradients need, for example
        line = str(problem).strip().splitlines()[0][:150]
        raise BadInput(
            f"its forward can not be differentiated ({line}); use --importance activation"
        ) from problem
    finally:
        for hook in hooks:
            hook.remove()
    return [t / (len(inputs) * probes) for t in totals]


RANKINGS = {
    "magnitude": magnitude,
    "taylor": taylor,
    "activation": activation,
    "sensitivity": sensitivity,
}
