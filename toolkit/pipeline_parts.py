"""The parts of a diffusers pipeline as components: tensors in, tensors out, one module for each.

What a pipeline class of diffusers 0.42 does between its parts (which hidden layer, what is joined to
what) stands in them, so that a sampler needs nothing but their inputs and outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClipText(nn.Module):
    """Token ids → hidden states of the last layer, or the one before; and the pooled vector."""

    def __init__(self, model: nn.Module, last: bool, pooled: bool) -> None:
        super().__init__()
        self.model, self.last, self.pooled = model, last, pooled

    def forward(self, tokens: Tensor) -> Any:
        found = self.model(tokens, output_hidden_states=not self.last)
        context = found[0] if self.last else found.hidden_states[-2]
        return (context, found[0]) if self.pooled else context


class UNet(nn.Module):
    """Latents, timestep, text → prediction. What the picture's size and the guidance decide is
    stored: the size that the model is told of, the embedded guidance."""

    def __init__(self, model: nn.Module, size: Tensor | None, guidance: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("size", size)
        self.register_buffer("guidance", guidance)

    def forward(self, latents: Tensor, timestep: Tensor, *text: Tensor) -> Tensor:
        added, contexts = None, text
        if self.size is not None:
            contexts, added = text[:-1], {"text_embeds": text[-1], "time_ids": self.size}
        result: Tensor = self.model(
            latents,
            timestep,
            encoder_hidden_states=torch.cat(contexts, -1),
            timestep_cond=self.guidance,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return result


class StableDiffusion3Transformer(nn.Module):
    """The same, of a flow-matching transformer: two texts side by side, then `rest` more tokens of
    zeros that a third text encoder would fill."""

    def __init__(self, model: nn.Module, width: int, rest: int) -> None:
        super().__init__()
        self.model, self.width, self.rest = model, width, rest

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        context: Tensor,
        context_2: Tensor,
        pooled: Tensor,
        pooled_2: Tensor,
    ) -> Tensor:
        text = torch.cat([context, context_2], -1)
        text = F.pad(text, (0, self.width - text.shape[-1], 0, self.rest))
        result: Tensor = self.model(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=text,
            pooled_projections=torch.cat([pooled, pooled_2], -1),
            return_dict=False,
        )[0]
        return result


class Decoder(nn.Module):
    """Final latents → RGB from −1 to 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        result: Tensor = self.model.decode(latents, return_dict=False)[0]  # type: ignore[operator]
        return result
