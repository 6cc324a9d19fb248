"""Your own module as a Generator: what goes in, what comes out, and pictures to calibrate on.

    from genedge.toolkit.own import generator_of, image, noise

    def enlarge():
        return generator_of(
            MyNet(), inputs={"small": image(3, 64, 64)}, output=(0, 1), images={"small": pictures}
        )

and then `genedge export mymodule:enlarge --target all`. docs/own.md has a worked example.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genedge.runtime.errors import BadInput
from genedge.runtime.run import prepare
from genedge.runtime.signature import LAYOUTS, Signature, TensorSpec, signature_from_json

from .generator import Component, Generator
from .programs import export_module

__all__ = ["choice", "generator_of", "image", "noise", "style"]

_CHANNELS = {"gray": 1, "rgb": 3, "rgba": 4, "rgba-premultiplied": 4}
_SMALLEST = 11  # the window of SSIM
# Of the first picture: the share of values that may lie beyond the named range by more than _SPARE of it.
_SPARE, _MOST_BEYOND = 0.02, 0.2


def noise(*shape: int) -> TensorSpec:
    """Near-normal numbers from the seed: mean 0, variance 1, between −6 and 6."""
    return TensorSpec("float32", shape, -6, 6, "noise")


def image(
    channels: int, height: int, width: int, *, low: float = 0.0, high: float = 1.0
) -> TensorSpec:
    """A picture, (1, channels, height, width): 1 channel is grey, 3 RGB, 4 RGBA with straight alpha.

    low, high: what level 0 and level 255 are for the module.
    """
    return TensorSpec("float32", (1, channels, height, width), low, high, "image")


def choice(count: int) -> TensorSpec:
    """One-hot, (1, count): the seed chooses. For classes that have no names."""
    return TensorSpec("float32", (1, count), 0, 1, "meaning")


def style(count: int) -> TensorSpec:
    """One-hot, (1, count): `--style NAME` chooses, else the seed. Names go to `styles`."""
    return TensorSpec("float32", (1, count), 0, 1, "style")


def generator_of(
    module: nn.Module,
    *,
    inputs: Mapping[str, TensorSpec],
    output: tuple[float, float],
    layout: str = "",
    name: str = "",
    styles: Sequence[str] = (),
    images: Mapping[str, np.ndarray] | None = None,
    calibration: int = 64,
    golden: int = 16,
) -> Generator:
    """A Generator of one module, put into evaluation mode.

    name: of letters, digits, dots, dashes and underscores; the class's where empty; its component is
    called so too, with underscores for dots. inputs: in the order of forward's arguments. output: the values that become level 0 and level
    255 of the picture, which is forward's one result, (1, C, H, W) with H and W at least 11.
    layout: one of LAYOUTS; from C where it is 1 or 3, needed where it is 4. images: for each image
    input, uint8 (N, H, W, C), or (N, H, W) where it is grey: the last `golden` of the N verify
    artifacts, those before them calibrate int8; inputs of the same number are fed together. Without
    image inputs, `calibration` and `golden` count pictures drawn from seeds. Raises BadInput where
    the description does not fit the module.
    """
    name = name or type(module).__name__.lower()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"name {name!r}: use letters, digits, dots, dashes and underscores")
    specs = dict(inputs)
    stacks = {
        n: _stack(n, s, images or {}, golden) for n, s in specs.items() if s.source == "image"
    }
    unknown = sorted(set(images or {}) - set(stacks))
    if unknown:
        raise BadInput(f"images {unknown[0]!r}: no image input has this name")
    for n, spec in specs.items():
        if spec.source == "style" and spec.shape[-1] != len(styles):
            raise BadInput(f"input {n} has {spec.shape[-1]} styles, {len(styles)} names are given")
        if spec.source == "prompt":
            raise BadInput(f"input {n}: text needs a tokenizer; return a Generator that has one")
    counts = {len(s) for s in stacks.values()}
    if len(counts) > 1:
        raise BadInput(f"images: {counts} pictures; give each image input as many")
    if counts:
        calibration = counts.pop() - golden
    labels = tuple(f"calibration {i}" for i in range(calibration))
    held = tuple(f"golden {i}" for i in range(golden))
    pictures = {
        label: {n: s[i] for n, s in stacks.items()} for i, label in enumerate((*labels, *held))
    }
    drawn = next(n for n in ("picture", "drawn", "drawn_picture") if n not in specs)
    bare = Signature(specs, drawn, TensorSpec("float32", (), *output), layout, tuple(styles))
    shape = _shape(module.eval(), bare, pictures.get(held[0]), name)
    made = Signature(
        specs,
        drawn,
        TensorSpec("float32", shape, *output),
        _layout(layout, shape, output, name),
        tuple(styles),
    )
    signature_from_json(made.to_json(), name)
    return Generator(
        name=name,
        components=(Component(name.replace(".", "_"), module, tuple(specs), (drawn,)),),
        signature=made,
        calibration=labels,
        golden=held,
        pictures=pictures if stacks else {},
    )


def _stack(
    name: str, spec: TensorSpec, images: Mapping[str, np.ndarray], golden: int
) -> np.ndarray:
    if len(spec.shape) != 4:
        raise BadInput(f"input {name}: an image has four axes, not {list(spec.shape)}")
    _, channels, height, width = spec.shape
    if name not in images:
        raise BadInput(
            f"input {name} is an image: give images={{{name!r}: uint8 (N, {height}, {width}, "
            f"{channels})}} to calibrate and verify with"
        )
    stack = np.asarray(images[name])
    stack = stack[..., None] if stack.ndim == 3 else stack
    if stack.dtype != np.uint8 or stack.shape[1:] != (height, width, channels):
        raise BadInput(
            f"images {name!r}: expected uint8 (N, {height}, {width}, {channels}), "
            f"got {stack.dtype} {stack.shape}"
        )
    if len(stack) <= golden:
        raise BadInput(
            f"images {name!r}: {len(stack)} pictures are too few; {golden} verify, and at least "
            f"one more calibrates"
        )
    return stack


@torch.no_grad()
def _shape(
    module: nn.Module, signature: Signature, images: Mapping[str, np.ndarray] | None, name: str
) -> tuple[int, ...]:
    """Of what the module gives for one feed. Raises BadInput where it can not be run so."""
    fed = [torch.from_numpy(v) for v in prepare(signature, None, "", 0, "", images).inputs.values()]
    try:
        result, again = module(*fed), module(*fed)
    except Exception as problem:
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
        takes = ", ".join(f"{n} {list(s.shape)}" for n, s in signature.inputs.items())
        raise BadInput(f"{name} can not be run on {takes}: {line}") from problem
    if isinstance(result, tuple) and len(result) == 1:
        result, again = result[0], again[0]
    if not isinstance(result, Tensor) or result.dim() != 4 or result.shape[0] != 1:
        what = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise BadInput(
            f"{name} gives {what}, not one picture (1, C, H, W); wrap it so that it does"
        )
    if not torch.equal(result.nan_to_num(), again.nan_to_num()):
        export_module(module, tuple(fed))  # names the operator, where torch is the one that draws
        raise BadInput(
            f"{name} gives another picture each time it is run: random numbers in forward would be "
            f"frozen into the file; make noise an input"
        )
    low, high = signature.output.low, signature.output.high
    beyond = (result < low - _SPARE * (high - low)) | (result > high + _SPARE * (high - low))
    if low < high and (share := float(beyond.float().mean())) > _MOST_BEYOND:
        print(
            f"genedge: warning: {name} gives values from {float(result.min()):.3g} to "
            f"{float(result.max()):.3g}; output {(low, high)} cuts {share:.0%} of them off: name the "
            f"range that it gives, or clamp in forward",
            file=sys.stderr,
        )
    if min(result.shape[2:]) < _SMALLEST:
        raise BadInput(f"{name} gives {list(result.shape)}; a picture has at least 11 × 11 pixels")
    return tuple(result.shape)


def _layout(layout: str, shape: tuple[int, ...], output: tuple[float, float], name: str) -> str:
    if not output[0] < output[1]:
        raise BadInput(
            f"{name}: output {output}: the value of level 0 lies below that of level 255"
        )
    if not layout:
        if shape[1] not in (1, 3):
            raise BadInput(
                f"{name} gives {shape[1]} channels; say layout: {', '.join(map(repr, LAYOUTS))}"
            )
        return "gray" if shape[1] == 1 else "rgb"
    if _CHANNELS.get(layout) != shape[1]:
        raise BadInput(
            f"{name} gives {shape[1]} channels, layout {layout!r} does not; known: "
            f"{', '.join(LAYOUTS)}"
        )
    return layout
