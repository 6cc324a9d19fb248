"""What can not be traced or lowered, said in one line: which module, which operator, what instead."""

from __future__ import annotations

import re
from types import TracebackType

from torch import nn
from torch.export import ExportedProgram

from genedge.runtime.errors import BadInput

# What the operator's name holds, and what to write instead.
_INSTEAD = {
    "fft": "a fixed linear layer or convolution that computes the transform",
    "complex": "real numbers: write a rotation with its cosine and sine",
    "polar": "real numbers: write a rotation with its cosine and sine",
    "grid_sampler": "F.interpolate, or a fixed convolution that resamples",
    "nonzero": "torch.where, so that no shape depends on values",
    "data-dependent": "tensor arithmetic and torch.where, so that nothing depends on values",
    "item": "tensor arithmetic, so that no number leaves the graph",
    "local_scalar": "tensor arithmetic, so that no number leaves the graph",
    "linalg": "values computed once and stored as a buffer",
    "svd": "values computed once and stored as a buffer",
    "unique": "a computation with shapes that do not depend on values",
    "masked_select": "torch.where, so that no shape depends on values",
}
_OPERATOR = re.compile(r"(?:aten|prims|torchvision)(?:::|\.)(_?[a-z]\w*)")


def instead_of(text: str) -> str:
    """What to write instead of an operator, by its name or by the error that it caused."""
    found = [hint for word, hint in _INSTEAD.items() if word in text.lower()]
    return found[0] if found else "convolutions, linear layers, sums, products and activations"


def can_not_trace(module: nn.Module, problem: Exception) -> BadInput:
    """Of what torch.export raised: the innermost module whose forward it came from."""
    names = {id(m): n for n, m in module.named_modules()}
    trace: TracebackType | None = problem.__traceback__
    inner, line = type(module).__name__, ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, nn.Module):
            name = names[id(owner)]
            inner = f"{name} ({type(owner).__name__})" if name else type(owner).__name__
            line = f", line {trace.tb_lineno} of its file"
        trace = trace.tb_next
    text = str(problem).strip()
    said = next((t for t in text.splitlines() if t.strip()), type(problem).__name__)
    operators = sorted(set(_OPERATOR.findall(text)))
    what = f" at {operators[0]}" if operators else ""
    return BadInput(
        f"{inner} can not be traced{what}{line} ({said.strip()[:160]}); "
        f"use {instead_of(' '.join([*operators, text]))}"
    )


def can_not_lower(target: str, programs: list[ExportedProgram], problem: Exception) -> BadInput:
    """Of what a recipe raised: the operator that it names, and the module that calls it."""
    from .programs import operator_of, owner

    text = f"{problem} {problem.__cause__ or ''} {problem.__context__ or ''}"
    named = _OPERATOR.findall(text)
    nodes = [n for p in programs for n in p.graph.nodes if n.op == "call_function"]
    for word in named:
        for node in nodes:
            called = operator_of(node)
            if called and (called == word or called.strip("_").split("_")[0] in word.split("_")):
                return BadInput(
                    f"{target} has no {called}, which {owner(node) or 'the model'} calls; "
                    f"use {instead_of(called)}"
                )
    line = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
    what = f"has no {named[0]}" if named else f"can not lower the model ({line})"
    return BadInput(f"{target} {what}; use {instead_of(' '.join(named) or line)}")
