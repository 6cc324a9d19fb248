"""A discriminator that sees the picture, its 4×-reduced copy, the code and the style."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import with_white
from .model import CODE_CHANNELS, CODE_SIZE, STYLE_COUNT

WIDTHS = (32, 64, 96, 128)


class Discriminator(nn.Module):
    """Four strided stages with a projection on code and style (Miyato and Koyama, 2018).

    He initialisation: with PyTorch's default it learns nothing in the minutes that there are.
    """

    def __init__(self) -> None:
        super().__init__()
        wide = [14, *WIDTHS]
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(wide)
        )
        self.last = nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1)
        self.logit = nn.Conv2d(WIDTHS[-1], 1, 1)
        self.condition = nn.Linear(CODE_CHANNELS * CODE_SIZE**2 + STYLE_COUNT, WIDTHS[-1])
        for layer in [*self.stages, self.last]:
            nn.init.kaiming_normal_(layer.weight, a=0.2)  # type: ignore[arg-type]

    def forward(self, picture: Tensor, code: Tensor, style: Tensor) -> tuple[Tensor, list[Tensor]]:
        """picture: (B, 4, 64, 64) in [0, 1]. Returns logits (B, 1, 4, 4) and the stages' features."""
        x = with_white(picture)
        small = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="nearest")
        x = torch.cat([x, small], 1) * 2 - 1
        features = []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.2)
            features.append(x)
        x = F.leaky_relu(self.last(x), 0.2)
        wanted = self.condition(torch.cat([code.flatten(1), style], 1))
        agree = (x * wanted[:, :, None, None]).mean(1, keepdim=True)
        return self.logit(x) + agree, features


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's logits."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def r1_penalty(critic: Discriminator, picture: Tensor, code: Tensor, style: Tensor) -> Tensor:
    """Squared gradient of the mean logit at real pictures (Mescheder et al., 2018); a scalar."""
    picture = picture.detach().requires_grad_()
    logit, _ = critic(picture, code, style)
    (slope,) = torch.autograd.grad(logit.mean((1, 2, 3)).sum(), picture, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean L1 between the discriminator's features, over stages; a scalar."""
    return torch.stack(
        [(f - r.detach()).abs().mean() for f, r in zip(fake, real, strict=True)]
    ).mean()
