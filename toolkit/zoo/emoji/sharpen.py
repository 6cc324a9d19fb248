"""A phase of both decoders: sharper, by a discriminator that sees the picture, its 4×-reduced copy,
the code and the style. The codes stay."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genedge.toolkit.train import (
    Average,
    Report,
    Stateful,
    adam,
    falling,
    fast,
    run_phase,
    set_rates,
)

from .codes import batches_of, jittered, judge_codes
from .data import Art
from .losses import picture_loss, with_white
from .model import CODE_CHANNELS, CODE_SIZE, STYLE_COUNT, Stages

D = TypeVar("D", bound=Stages)
WIDTHS = (32, 64, 96, 128)
STEPS, RATE, NOISE = 500, 2e-4, 0.15
ADVERSARIAL_WEIGHT, FEATURE_WEIGHT, R1_WEIGHT, R1_EVERY = 0.04, 0.05, 1.0, 8


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


def fit_sharp(
    phase: str,
    art: Art,
    decoder: D,
    codes: Tensor,
    work: Path,
    report: Report,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    noise: float = NOISE,
    seed: int = 2,
) -> D:
    """Trains a copy of the decoder against a discriminator; returns its average. Resumes from `work`.

    codes: float32 (emoji, 64, 4, 4), within BOUNDS["code"]. rate: Adam's; the discriminator has
    4e-4. noise: see `jittered`.
    """
    torch.manual_seed(seed)
    live = copy.deepcopy(decoder).train().requires_grad_(True)
    live.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    critic, weights = Discriminator(), dict(live.named_parameters())
    optimizer, average = adam((weights.values(), rate)), Average(weights)
    judge_optimizer = torch.optim.Adam(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
    batch = batches_of(art, seed)

    def one_step(step: int) -> dict[str, Tensor]:
        target, style, emoji = batch(step)
        code = codes[emoji]
        with fast():
            raw = live.unclamped(jittered(code, noise, seed * 1_000_003 + step), style).float()
        fake = raw.clamp(0, 1)
        with fast():
            logit, felt = critic(fake, code, style)
            with torch.no_grad():
                _, wanted = critic(target, code, style)
        picture, fooled = picture_loss(raw, target), logit.float().mean()
        like = feature_distance([f.float() for f in felt], [w.float() for w in wanted])
        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        (picture - ADVERSARIAL_WEIGHT * fooled + FEATURE_WEIGHT * like).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update(weights)

        judge_optimizer.zero_grad()
        with fast():
            real_logit, _ = critic(target, code, style)
            fake_logit, _ = critic(fake.detach(), code, style)
        loss = critic_loss(real_logit.float(), fake_logit.float())
        told = {"picture": picture, "fooled": fooled, "features": like, "critic": loss}
        if step % R1_EVERY == 0:
            loss = loss + R1_WEIGHT / 2 * R1_EVERY * r1_penalty(critic, target, code, style)
        loss.backward()  # type: ignore[no-untyped-call]
        judge_optimizer.step()
        return {k: v.detach() for k, v in told.items()}

    def averaged() -> D:
        mean = copy.deepcopy(live).eval()
        mean.load_state_dict({**mean.state_dict(), **average.tensors})  # clamps have no mean
        return mean

    state: dict[str, Stateful] = {
        "decoder": live,
        "optimizer": optimizer,
        "average": average,
        "critic": critic,
        "critic_optimizer": judge_optimizer,
    }
    run_phase(
        phase,
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_codes(averaged(), codes, art),
        evaluate_every=1000,
    )
    return averaged()
