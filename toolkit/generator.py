"""A Generator: torch modules, and everything around them that makes a picture of a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from genedge.runtime.errors import BadInput
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import Feed, prepare
from genedge.runtime.signature import Signature
from genedge.runtime.tokenizer import PromptTokenizer

from . import channels


@dataclass(frozen=True)
class Component:
    """One torch module of a generator; its inputs and outputs by name, in order.

    kept: channels that pruning left of the constructor's module; empty where it left all.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kept: channels.Kept = field(default_factory=dict)


@dataclass(frozen=True)
class Generator:
    """A trained generator. Passes take one and return one.

    components run in order, each reading named tensors and adding its own. calibration: prompts
    that int8 ranges are measured on. golden: prompts that artifacts are verified with; none of the
    two lists holds a prompt of the other. pictures: for a generator with image inputs, by prompt of
    both lists (there a mere name) and by input, uint8 (H, W, C). history: one row per pass that made
    it.
    """

    name: str
    components: tuple[Component, ...]
    signature: Signature
    tokenizer: PromptTokenizer | None = None
    tokenizer_json: str = ""
    calibration: tuple[str, ...] = ()
    golden: tuple[str, ...] = ()
    constructor: str = ""
    history: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    pictures: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises BadInput: layers are named component.layer."""
        for component in self.components:
            if "." in component.name:
                raise BadInput(f"component {component.name!r}: a component's name holds no dot")

    def images_of(self, prompt: str) -> Mapping[str, np.ndarray]:
        """What the image inputs are fed for a prompt that the generator lists; {} for others."""
        return self.pictures.get(prompt, {})

    def prepare(
        self,
        prompt: str,
        seed: int,
        style: str = "",
        images: Mapping[str, np.ndarray] | None = None,
    ) -> Feed:
        """Inputs for one picture; see genedge.runtime.run.prepare.

        images: by image input; where None, those that the generator lists for this prompt.
        """
        images = self.images_of(prompt) if images is None else images
        return prepare(self.signature, self.tokenizer, prompt, seed, style, images)

    @torch.no_grad()
    def tensors(self, feed: Feed) -> dict[str, Tensor]:
        """Every named tensor of one picture: inputs, what passes between components, output."""
        named = {k: torch.from_numpy(v) for k, v in feed.inputs.items()}
        for component in self.components:
            results = component.module(*(named[n] for n in component.inputs))
            results = results if isinstance(results, tuple) else (results,)
            named |= dict(zip(component.outputs, results, strict=True))
        return named

    def example(self) -> dict[str, Tensor]:
        """Every named tensor of the first prompt that the generator lists."""
        prompt = [*self.calibration, *self.golden, "a picture"][0]
        return self.tensors(self.prepare(prompt, seed=0))

    def pixels(self, feed: Feed) -> np.ndarray:
        """uint8 (H, W, 4), straight alpha: the float reference."""
        return to_pixels(self.tensors(feed)[self.signature.output_name].numpy(), self.signature)

    def hash(self) -> str:
        """sha256 over names, shapes and bytes of all weights, and over the tokenizer."""
        digest = hashlib.sha256(self.tokenizer_json.encode())
        for name, tensor in sorted(weights_of(self).items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            plain = tensor.float() if fits_float(tensor) else tensor
            digest.update(plain.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_modules(self, modules: Sequence[nn.Module], note: Mapping[str, Any]) -> Generator:
        """The same generator with other modules, one per component, and a row of history more."""
        components = tuple(
            replace(c, module=m.eval()) for c, m in zip(self.components, modules, strict=True)
        )
        return replace(self, components=components, history=(*self.history, note))


def weights_of(generator: Generator) -> dict[str, Tensor]:
    """All parameters and buffers, as "component.name"."""
    return {
        f"{c.name}.{k}": v for c in generator.components for k, v in c.module.state_dict().items()
    }


def fits_float(tensor: Tensor) -> bool:
    """Whether float32 holds its values: complex numbers, and whole ones of above 24 bits, it does not."""
    if tensor.is_complex():
        return False
    whole = not tensor.is_floating_point() and tensor.numel()
    return not (whole and int(tensor.abs().max() if tensor.dtype != torch.bool else 1) > 1 << 24)


def golden_seed(index: int) -> int:
    """The fixed seed of the golden prompt of this index."""
    return 1000 + index


def like(before: nn.Module, after: nn.Module) -> None:
    """Parameters of `after` ask for gradients where those of `before` of the same name do."""
    asked = {name: p.requires_grad for name, p in before.named_parameters()}
    for name, parameter in after.named_parameters():
        parameter.requires_grad_(asked.get(name, parameter.requires_grad))


def still(generator: Generator) -> None:
    """Its modules as they draw: norms and dropout in evaluation. Graphs of torch.export are so."""
    for component in generator.components:
        if component.module.training and not isinstance(component.module, GraphModule):
            component.module.eval()
