"""Proof that a net without channels computes what it did when nothing read them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from genedge.runtime.metrics import sqnr

from . import channels
from .channels import by_group
from .dependency import Group

PROOF_DB = 100.0  # what the pruned net must equal the net with those channels ignored by
Inputs = list[tuple[Tensor, ...]]


def _outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        results = [module(*each) for each in inputs]
    return [o for r in results for o in (r if isinstance(r, tuple) else (r,))]


def kept_after(model: nn.Module, removed: Sequence[tuple[Group, Sequence[int]]]) -> channels.Kept:
    """Channels that stay when the named units of groups go."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group, units in removed:
        for i in units:
            for place, members in group.units[i].items():
                gone.setdefault(place, set()).update(members)
    kept: dict[str, dict[str, tuple[int, ...]]] = {}
    for (name, side), ids in gone.items():
        if side.startswith("axis"):
            total = model.get_parameter(name).shape[int(side[4:])]
        else:
            total = channels.width(model.get_submodule(name), side) or 0
        kept.setdefault(name, {})[side] = tuple(i for i in range(total) if i not in ids)
    return kept


def _ignoring(model: nn.Module, kept: channels.Kept) -> nn.Module:
    """A copy in which no layer reads the channels that go: their weights are zero."""
    copied = copy.deepcopy(model)
    for name, sides in kept.items():
        if "in" not in sides:
            continue
        layer = copied.get_submodule(name)
        gone = sorted(set(range(channels.width(layer, "in") or 0)) - set(sides["in"]))
        with torch.no_grad():
            if isinstance(layer, nn.Linear):
                layer.weight[:, gone] = 0
            elif getattr(layer, "groups", 1) == 1:
                weight = by_group(layer)[0]  # type: ignore[arg-type]  # a view of the weights
                weight[:, gone] = 0
    return copied


def proof(model: nn.Module, kept: channels.Kept, inputs: Inputs) -> float:
    """dB by which the sliced model equals the one that ignores the same channels (see sqnr).

    Raises whatever the sliced model raises.
    """
    sliced = copy.deepcopy(model)
    channels.keep(sliced, kept)
    pairs = zip(_outputs(sliced, inputs), _outputs(_ignoring(model, kept), inputs), strict=True)
    return min(sqnr(a.numpy(), b.numpy()) for a, b in pairs)


def _why(model: nn.Module, group: Group, db: float) -> str:
    """What is said of a group whose removal changes more than what its readers get."""
    for name in {
        name: None for unit in group.units for name, side in unit if side in ("in", "out")
    }:
        if is_parametrized(model.get_submodule(name)):
            return (
                f"{name}'s weight is computed from others (weight or spectral norm); fold it first"
            )
    return f"without them it computes something else ({db:.0f} dB)"


def provable(
    model: nn.Module, groups: list[Group], inputs: Inputs
) -> tuple[list[Group], dict[str, str]]:
    """Groups of which a random half can be removed and the rest computes the same, each tried on
    top of those before it; and layer → reason for the others."""
    random = torch.Generator().manual_seed(0)
    done: list[tuple[Group, list[int]]] = []
    alone: dict[str, str] = {}
    for group in groups:
        count = len(group.units) // 2 // group.step * group.step or group.step
        mixed = torch.randperm(len(group.units), generator=random).tolist()
        trial = (group, mixed[: len(group.units) - count])
        try:
            db = proof(model, kept_after(model, [*done, trial]), inputs)
            reason = "" if db >= PROOF_DB else _why(model, group, db)
        except Exception as problem:  # the forward of any module may raise anything
            line = (str(problem).strip() or type(problem).__name__).splitlines()[0][:90]
            reason = f"its forward needs them all ({line})"
        if reason:
            alone |= dict.fromkeys(group.layers, reason)
        else:
            done.append(trial)
    return [g for g, _ in done], alone
