"""Structured pruning: whole channels leave, by dependency graph, and the result is proven."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genedge.runtime.errors import BadInput, EnvironmentFailed

from . import channels
from .dependency import Group, groups_of
from .generator import Component, Generator, like
from .importance import RANKINGS
from .proof import PROOF_DB, Inputs, kept_after, proof, provable

SCOPES = ("global", "layer")
MOST = 0.95  # of a group's channels, at any ratio: a layer of nothing can not recover
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Ranked:
    """A group of a component, and its units from the least important on, with their scores."""

    component: str
    group: Group
    order: tuple[int, ...]
    scores: tuple[float, ...]


def multiply_adds(generator: Generator) -> int:
    """Multiply-adds of one picture: convolutions, linear layers, matrix products, attention."""
    feed = generator.prepare(_prompts(generator)[0], seed=0)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter sees nothing of it
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            generator.tensors(feed)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def int8_bytes(generator: Generator) -> int:
    """Bytes of the weights as int8: one for each number of a tensor of two or more dimensions, four
    for each of the rest (biases)."""
    tensors = [p for c in generator.components for p in c.module.parameters()]
    return sum(p.numel() * (1 if p.dim() > 1 else 4) for p in tensors)


def _prompts(generator: Generator) -> Sequence[str]:
    return generator.calibration or generator.golden or ("a picture",)


def component_inputs(generator: Generator, count: int) -> dict[str, Inputs]:
    """What each component gets for `count` calibration prompts, each with another seed."""
    prompts = _prompts(generator)
    stride = max(1, len(prompts) // count)
    found: dict[str, Inputs] = {c.name: [] for c in generator.components}
    for i in range(count):
        feed = generator.prepare(prompts[i * stride % len(prompts)], seed=i)
        tensors = generator.tensors(feed)
        for c in generator.components:
            found[c.name].append(tuple(tensors[n].clone() for n in c.inputs))
    return found


def _share(ranked: Sequence[Ranked], ratio: float, scope: str) -> list[list[int]]:
    """Units to remove from each group at this ratio."""
    wanted = [ratio * len(r.order) for r in ranked]
    if scope == "global":
        every = sorted((s, k) for k, r in enumerate(ranked) for s in r.scores)
        first = [k for _, k in every[: round(ratio * len(every))]]  # by rank: many scores may be 0
        wanted = [float(first.count(k)) for k in range(len(ranked))]
    gone = []
    for r, count in zip(ranked, wanted, strict=True):
        total, step = len(r.order), r.group.step
        stay = round((total - min(count, MOST * total)) / step) * step
        gone.append(list(r.order[: total - min(total, max(step, stay))]) if count else [])
    return gone


def _rank(
    component: Component, groups: list[Group], inputs: Inputs, importance: str
) -> list[Ranked]:
    ranked = []
    # A copy: with gradients a forward may leave what can not be copied (old weight and spectral norm).
    scores = RANKINGS[importance](copy.deepcopy(component.module), groups, inputs)
    for group, row in zip(groups, scores, strict=True):
        if importance != "taylor":  # a change of the output is comparable as it is
            row = row / row.mean().clamp(min=1e-20)
        order = tuple(int(i) for i in row.argsort(stable=True))
        ranked.append(Ranked(component.name, group, order, tuple(row.tolist())))
    return ranked


def _apply(generator: Generator, ranked: Sequence[Ranked], gone: list[list[int]]) -> Generator:
    made = []
    for c in generator.components:
        mine = [
            (r.group, g) for r, g in zip(ranked, gone, strict=True) if r.component == c.name and g
        ]
        module = copy.deepcopy(c.module)
        kept = kept_after(module, mine)
        channels.keep(module, kept)
        made.append(replace(c, module=module.eval(), kept=channels.compose(c.kept, kept)))
    return replace(generator, components=tuple(made))


def _to_target(
    size: Callable[[Generator], int], target: int, what: str, at: Callable[[float], Generator]
) -> float:
    """The least ratio, in steps of 1/256, at which `size` is within the target."""
    low, high = 0, 256
    whole = size(at(0.0))
    if whole <= target:
        raise BadInput(f"it has {whole:,} {what} already; name a target below")
    smallest = size(at(1.0))
    if smallest > target:
        raise BadInput(
            f"{smallest:,} {what} are left when all that may go is gone; {target:,} is out of reach: "
            f"name a larger target, or another student"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(at(middle / 256)) <= target else (middle, high)
    return high / 256


def prune(
    generator: Generator,
    *,
    ratio: float | None = None,
    target_macs: int | None = None,
    target_bytes: int | None = None,
    importance: str = "taylor",
    scope: str = "global",
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
    components: Sequence[str] = (),
    prompts: int = 16,
    progress: Progress = lambda what, done, total: None,
) -> Generator:
    """The generator with fewer channels. One of ratio, target_macs and target_bytes is given.

    ratio: share of the removable channels, 0 to 1. target_macs: multiply-adds of one picture.
    target_bytes: see int8_bytes. importance: one of RANKINGS. scope: "global" ranks the channels of
    all groups of a component together, "layer" takes the same share of each. keep: layers, as
    "component.layer", to leave alone. also: first or last convolutions that may lose channels.
    components: names of those to prune; all where empty. prompts: calibration prompts that
    importance is measured on.

    Never touched: the first and the last convolution of a component unless `also` names them, the
    token table, and what crosses a component's boundary. The last row of `history` says what became
    of each layer.
    Raises BadInput for a wrong value or a target out of reach, EnvironmentFailed where the result
    does not equal the generator with the same channels ignored.
    """
    given = [v for v in (ratio, target_macs, target_bytes) if v is not None]
    if len(given) != 1:
        raise BadInput("give one of a ratio, a target in multiply-adds and a target in bytes")
    if ratio is not None and not 0 < ratio < 1:
        raise BadInput(f"ratio {ratio:g} is out of range; use a number between 0 and 1")
    for value, known, what in (
        (importance, RANKINGS, "importance"),
        (scope, SCOPES, "scope"),
        *((c, [c.name for c in generator.components], "component") for c in components),
    ):
        if value not in known:
            raise BadInput(f"{what} {value!r} is unknown; known: {', '.join(known)}")
    original = copy.deepcopy(generator)
    for c in original.components:
        c.module.eval()
        for parameter in c.module.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(True)  # taylor's; put back below
    inputs = component_inputs(original, prompts)
    kept_by_user = _layers_of(original, dict.fromkeys(keep, "kept as asked"))
    also_by_user = _layers_of(original, dict.fromkeys(also, ""))
    ranked: list[Ranked] = []
    alone: dict[str, str] = {}
    for i, c in enumerate(original.components):
        progress("channels that stand together", i, len(original.components))
        if components and c.name not in components:
            continue
        groups, reasons = groups_of(
            c.module, inputs[c.name][0], kept_by_user.get(c.name), also_by_user.get(c.name, ())
        )
        groups, more = provable(c.module, groups, inputs[c.name][:2])
        if groups:
            ranked += _rank(c, groups, inputs[c.name], importance)
        alone |= {f"{c.name}.{n}": why for n, why in (reasons | more).items()}
    progress("channels that stand together", len(original.components), len(original.components))
    if not ranked:
        reason = "; ".join(f"{n}: {why}" for n, why in list(alone.items())[:3])
        raise BadInput(f"{generator.name} has no channels that can go ({reason or 'no layers'})")

    def at(share: float) -> Generator:
        gone: list[list[int]] = []
        for c in original.components:  # scores of two components can not be compared
            gone += _share([r for r in ranked if r.component == c.name], share, scope)
        return _apply(original, ranked, gone)

    if target_macs is not None:
        ratio = _to_target(multiply_adds, target_macs, "multiply-adds", at)
    elif target_bytes is not None:
        ratio = _to_target(int8_bytes, target_bytes, "bytes of weights as int8", at)
    assert ratio is not None
    made = at(ratio)
    _prove(original, made, inputs)
    for before, after in zip(generator.components, made.components, strict=True):
        like(before.module, after.module)
    note = {
        "pass": "prune",
        "ratio": ratio,
        "channels": [sum(map(_channels, ranked)), _gone(original, made, ranked)],
        "importance": importance,
        "scope": scope,
        "multiply_adds": [multiply_adds(original), multiply_adds(made)],
        "int8_bytes": [int8_bytes(original), int8_bytes(made)],
        "pruned": _widths(original, made),
        "left_alone": alone,
    }
    return replace(made, history=(*generator.history, note))


def _channels(ranked: Ranked) -> int:
    """Of the first layer of the group, those that may go."""
    first = ranked.group.layers[0]
    return sum(
        len(ids)
        for u in ranked.group.units
        for (n, s), ids in u.items()
        if (n, s) == (first, "out")
    )


def _gone(before: Generator, after: Generator, ranked: Sequence[Ranked]) -> int:
    """How many of these went."""
    widths = _widths(before, after)
    names = [f"{r.component}.{r.group.layers[0]}" for r in ranked]
    return sum(old - new for n in dict.fromkeys(names) if n in widths for old, new in [widths[n]])


def _layers_of(generator: Generator, named: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What is said of layers named "component.layer", by component, for all that they hold."""
    found: dict[str, dict[str, str]] = {}
    for name, said in named.items():
        component, _, layer = name.partition(".")
        modules = {c.name: c.module for c in generator.components}
        if component not in modules or layer not in dict(modules[component].named_modules()):
            raise BadInput(f"layer {name!r} is unknown; layers are named component.layer")
        for inner, _ in modules[component].get_submodule(layer).named_modules(prefix=layer):
            found.setdefault(component, {})[inner] = said
    return found


def _prove(original: Generator, made: Generator, inputs: Mapping[str, Inputs]) -> None:
    for before, after in zip(original.components, made.components, strict=True):
        kept = _since(before, after)
        if kept and (db := proof(before.module, kept, inputs[before.name][:2])) < PROOF_DB:
            raise EnvironmentFailed(
                f"{before.name}: the pruned net equals the one it came from by {db:.0f} dB only "
                f"(limit {PROOF_DB:.0f}); leave layers alone with --keep"
            )


def _since(before: Component, after: Component) -> channels.Kept:
    """What `after` keeps, counted on `before`."""
    rows: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, sides in after.kept.items():
        for side, ids in sides.items():
            base = before.kept.get(name, {}).get(side)
            now = tuple(base.index(i) for i in ids) if base is not None else ids
            rows.setdefault(name, {})[side] = now
    return rows


def _widths(before: Generator, after: Generator) -> dict[str, list[int]]:
    found = {}
    for a, b in zip(before.components, after.components, strict=True):
        for name, module in a.module.named_modules():
            old = channels.width(module, "out") if isinstance(module, channels.SLICED) else None
            new = channels.width(b.module.get_submodule(name), "out") if old else None
            if old and new and old != new:
                found[f"{a.name}.{name}"] = [old, new]
    return found
