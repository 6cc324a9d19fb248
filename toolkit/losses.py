"""What a student is compared with its teacher by: plain functions, each a scalar to be made small.

Pictures are (B, C, H, W) as the generators give them; teacher's tensors carry no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Weights where none are named; docs/shrink.md has what each bought. 0: not computed.
WEIGHTS = {
    "output": 1.0,
    "features": 0.5,
    "bands": 0.5,
    "relations": 0.1,
    "adversarial": 0.0,
    "int8": 0.0,
}
# Of the distance from float to int8, in units of the picture's range: a root mean square below NEAR
# (42 dB) is near enough, and what is beyond, squared, times WORST, makes the farthest count most.
NEAR, WORST = 0.008, 100.0


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the pictures."""
    return (student - teacher).abs().mean()


def feature_loss(pairs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Mean over layers of the mean absolute difference in units of the layer's magnitude.

    pairs: student's, teacher's, and the teacher's mean magnitude. Several layers, as OMGD does
    (Ren et al., "Online multi-granularity distillation", ICCV 2021).
    """
    return torch.stack([(s - t).abs().mean() / unit for s, t, unit in pairs]).mean()


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform of (B, C, H, W), H and W even.

    Returns the low band (B, C, H/2, W/2) and the three high bands (B, 3·C, H/2, W/2).
    """
    a, b = x[..., ::2, ::2], x[..., ::2, 1::2]
    c, d = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    high = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], 1)
    return (a + b + c + d) / 2, high / 2


def band_loss(student: Tensor, teacher: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute difference of the high-frequency bands, over up to `levels` levels.

    Zhang et al., "Wavelet knowledge distillation" (CVPR 2022): small generators lose the high
    bands, so these alone carry most of what distillation brings.
    """
    difference, losses = student - teacher, []
    for _ in range(levels):
        if difference.shape[-1] % 2 or difference.shape[-2] % 2:
            break
        difference, high = haar(difference)
        losses.append(high.abs().mean())
    return torch.stack(losses).sum() if losses else output_loss(student, teacher)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Differences between the distances of samples: what is unlike stays as unlike.

    Both (B, …). Distances are divided by their mean, compared by smooth L1 (Park et al.,
    "Relational knowledge distillation", CVPR 2019). 0 for fewer than two samples.
    """
    if len(student) < 2:
        return student.sum() * 0

    def distances(x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4).flatten(1) if x.dim() == 4 and x.shape[-1] >= 8 else x.flatten(1)
        # not cdist: its gradient at 0 is none
        d = ((x[:, None] - x[None]).square().sum(-1) + 1e-8).sqrt()
        d = d[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
        return d / d.mean().clamp(min=1e-6)

    return F.smooth_l1_loss(distances(student), distances(teacher))


def int8_loss(rounded: Tensor, drawn: Tensor, near: float = NEAR) -> Tensor:
    """How far int8 is from float: over pictures, the mean of what the root mean square of their
    difference has beyond `near`, and of its square times WORST. Both (B, …), the student's own:
    gradients go into both."""
    error = (rounded - drawn).square().flatten(1).mean(1)
    beyond = F.relu((error + 1e-8).sqrt() - near)
    return (beyond + WORST * beyond.square()).mean()


class Critic(nn.Module):
    """Tells the teacher's pictures from the student's: strided convolutions, one logit per place."""

    def __init__(self, channels: int, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        ends = (channels, *widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(ends, widths, strict=False)
        )
        self.logit = nn.Conv2d(widths[-1], 1, 1)
        for conv in (*self.convs, self.logit):  # with PyTorch's default it learns nothing for long
            nn.init.kaiming_normal_(conv.weight, 0.2)  # type: ignore[arg-type]

    def forward(self, picture: Tensor) -> Tensor:
        """(B, C, H, W), H and W at least 8 → (B, 1, H/8, W/8)."""
        for conv in self.convs:
            picture = F.leaky_relu(conv(picture), 0.2)
        logit: Tensor = self.logit(picture)
        return logit


def adversarial_loss(critic: Critic, student: Tensor) -> Tensor:
    """The generator's side of the hinge loss."""
    loss: Tensor = -critic(student).mean()
    return loss


def critic_loss(critic: Critic, student: Tensor, teacher: Tensor, penalty: bool) -> Tensor:
    """The critic's side: hinge, and with `penalty` R1 on the teacher's pictures (Mescheder et al.,
    ICML 2018), for every eighth step."""
    teacher = teacher.detach().requires_grad_(penalty)
    real = critic(teacher)
    loss = F.relu(1 - real).mean() + F.relu(1 + critic(student.detach())).mean()
    if penalty:
        (slope,) = torch.autograd.grad(real.mean((1, 2, 3)).sum(), teacher, create_graph=True)
        loss = loss + 8 * 0.5 * slope.square().sum((1, 2, 3)).mean()
    return loss
