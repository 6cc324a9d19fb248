"""Third and fourth phase: text side and decoder together, judged by the pictures they draw.

`joint` goes on with the losses of the first phase, from prompts; `sharpen` adds a discriminator.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import numpy as np
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

from .codes import BATCH, batch_rows, one_hot, pictures_of
from .data import Art
from .losses import picture_loss
from .model import Stages, TextSide
from .robust import CODE_NOISE, rounded
from .sharpen import Discriminator, critic_loss, feature_distance, r1_penalty
from .text import PromptBatches, joined, judge_prompts

D = TypeVar("D", bound=Stages)
JOINT_STEPS, SHARPEN_STEPS = 11_000, 1200
CODE_WEIGHT = 0.04
KEYWORDS, KEYWORD_SHARE = 32, 0.25  # keywords beside each batch, and among its prompts
ADVERSARIAL_WEIGHT, FEATURE_WEIGHT, R1_WEIGHT, R1_EVERY = 0.04, 0.05, 1.0, 8


def fit_pictures(
    phase: str,
    art: Art,
    batches: PromptBatches,
    text: TextSide,
    decoder: D,
    work: Path,
    report: Report,
    *,
    steps: int,
    rates: tuple[float, float] = (3e-4, 4e-4),
    critic: Discriminator | None = None,
    levels: int = 0,
    noise: float = CODE_NOISE,
    seed: int = 2,
) -> tuple[TextSide, D]:
    """Trains copies of text side and decoder; returns their averages. Resumes from `work`.

    rates: of the text side, which stays as it is at 0, and of the decoder. critic: trained beside
    them at 4e-4. levels: see `rounded`, of each side that learns; 0 for none. noise: largest
    standard deviation of what is added to codes.
    """
    torch.manual_seed(seed)
    live_text, live_decoder = copy.deepcopy(text), copy.deepcopy(decoder)
    live_text.train().requires_grad_(rates[0] > 0)
    live_decoder.train().requires_grad_(True)
    live_decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adam((live_text.parameters(), rates[0]), (live_decoder.parameters(), rates[1]))

    def live() -> dict[str, Tensor]:
        both: dict[str, nn.Module] = {"text": live_text, "decoder": live_decoder}
        return {f"{k}.{n}": p for k, m in both.items() for n, p in m.named_parameters()}

    average = Average(live())
    state: dict[str, Stateful] = {
        "text": live_text,
        "decoder": live_decoder,
        "optimizer": optimizer,
        "average": average,
    }
    if critic is not None:
        judge_optimizer = torch.optim.Adam(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
        state |= {"critic": critic, "critic_optimizer": judge_optimizer}
    rows = np.flatnonzero(art.train)
    pictures, where = pictures_of(art, rows), {int(r): i for i, r in enumerate(rows)}

    def one_step(step: int) -> dict[str, Tensor]:
        random = np.random.default_rng((seed, step))
        chosen = batch_rows(step, rows, BATCH, seed)
        target = pictures[[where[int(r)] for r in chosen]].float() / 255
        target = target.to(memory_format=torch.channels_last)
        style = one_hot(torch.from_numpy(art.style_of[chosen]))
        emoji = art.emoji_of[chosen]
        tokens, choices = batches.either(emoji, random, KEYWORD_SHARE)
        more, more_choices, meant = batches.keywords(random, KEYWORDS)
        said, which = joined(tokens, more), torch.cat([choices, more_choices])
        with fast():
            with rounded(live_text, levels if rates[0] else 0):
                written = live_text(said, which)
            code = written[:BATCH]
            size = noise * torch.from_numpy(random.random((BATCH, 1, 1, 1), np.float32))
            jitter = torch.from_numpy(random.standard_normal(code.shape, np.float32))
            with rounded(live_decoder, levels):
                raw = live_decoder.unclamped(code + size * jitter, style)
        raw, code = raw.float(), code.float()
        wanted = batches.codes[torch.from_numpy(np.concatenate([emoji, meant]))]
        near = F.mse_loss(written.float(), wanted)
        picture = picture_loss(raw, target)
        loss = picture + CODE_WEIGHT * near
        logged = {"picture": picture, "code": near}
        fake = raw.clamp(0, 1)
        if critic is not None:
            with fast():
                logit, felt = critic(fake, code.detach(), style)
                with torch.no_grad():
                    _, wanted = critic(target, code.detach(), style)
            like = feature_distance([f.float() for f in felt], [w.float() for w in wanted])
            loss = loss - ADVERSARIAL_WEIGHT * logit.float().mean() + FEATURE_WEIGHT * like
            logged |= {"fooled": logit.float().mean(), "features": like}
        set_rates(optimizer, falling(step, steps, flat=0.4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(live())
        if critic is not None:
            judge_optimizer.zero_grad()
            seen = code.detach()
            with fast():
                real_logit, _ = critic(target, seen, style)
                fake_logit, _ = critic(fake.detach(), seen, style)
            loss = critic_loss(real_logit.float(), fake_logit.float())
            logged["critic"] = loss
            if step % R1_EVERY == 0:
                penalty = r1_penalty(critic, target, seen, style)
                loss = loss + R1_WEIGHT / 2 * R1_EVERY * penalty
            loss.backward()
            judge_optimizer.step()
        return {k: v.detach() for k, v in logged.items()}

    def averaged() -> tuple[TextSide, D]:
        parts: dict[str, nn.Module] = {
            "text": copy.deepcopy(live_text).eval(),
            "decoder": copy.deepcopy(live_decoder).eval(),
        }
        for name, module in parts.items():
            mine = {k: v for k, v in average.tensors.items() if k.startswith(name + ".")}
            mean = {k.removeprefix(name + "."): v for k, v in mine.items()}
            module.load_state_dict({**module.state_dict(), **mean})  # clamps have no mean
        return parts["text"], parts["decoder"]  # type: ignore[return-value]

    run_phase(
        phase,
        work,
        steps,
        state,
        one_step,
        report,
        evaluate=lambda: judge_prompts(*averaged(), batches, art),
        evaluate_every=1000,
    )
    return averaged()
