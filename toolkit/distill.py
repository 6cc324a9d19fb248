"""Distillation without pictures: the teacher draws, and the student learns to draw the same."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genedge.runtime.errors import BadInput, MissingProgram

from . import losses as measures
from .constructors import called, modules_of, named
from .drawings import (
    Named,
    batch_of,
    check_batches,
    check_fits,
    check_learns,
    drawn,
    prepared,
    stacked,
)
from .features import Projections, Taps, matched
from .generator import Generator, like, still
from .int8_twin import Int8Twin
from .models import resolve
from .processes import Processes, launched
from .saved import of_function
from .train import SETTINGS, Average, Report, falling, fast, remember, run_phase, set_rates

FILES = ("distill.pt", "distill.jsonl", SETTINGS)  # what a run keeps in its work folder
FORMAT = 2  # of the checkpoints
WARM = 0.1  # of the steps: Adam's first ones undo what a pruned student still knows


def student_of(model: str, teacher: Generator) -> Generator:
    """The student that MODEL names: as `resolve`, and package.module:function may also return
    untrained modules by the names of the teacher's components. Raises BadInput."""
    if ":" in model and "@" not in model:
        made = called(named(model), model)
        if isinstance(made, Generator):
            return of_function(made, model)
        modules = modules_of(made, model)
        missing = [c.name for c in teacher.components if c.name not in modules]
        if missing:
            raise BadInput(f"{model} makes no component {missing[0]!r}; the teacher has one")
        fresh = tuple(replace(c, module=modules[c.name], kept={}) for c in teacher.components)
        student = replace(teacher, components=fresh, constructor=model, history=())
        still(student)
        return student
    return resolve(model)


def _check_same(student: Generator, processes: Processes) -> None:
    """Raises BadInput where the processes hold different students."""
    digest = [int(student.hash()[i : i + 6], 16) for i in range(0, 24, 6)]
    mine = torch.tensor(digest, dtype=torch.float64, device=processes.device)
    if not torch.equal(processes.mean(mine), mine):
        raise BadInput(
            "the processes hold different students, of other weights each; seed what makes them, or "
            "name a saved folder"
        )


def weights_of_losses(chosen: Mapping[str, float] | None) -> dict[str, float]:
    """All losses with their weights, the chosen ones in place of losses.WEIGHTS. Raises BadInput."""
    weights = measures.WEIGHTS | dict(chosen or {})
    for name in weights:
        if name not in measures.WEIGHTS:
            known = ", ".join(measures.WEIGHTS)
            raise BadInput(f"loss {name!r} is unknown; known: {known}")
        if not 0 <= weights[name] < 1e6:
            raise BadInput(f"the weight of loss {name} is {weights[name]:g}; use 0 or more")
    if not any(weights.values()):
        raise BadInput("every loss has the weight 0; there is nothing to learn from")
    return weights


def checked_rate(rate: float) -> float:
    """A learning rate that teaches something. Raises BadInput."""
    if not 0 < rate < 1:
        raise BadInput(
            f"a rate of {rate:g} teaches nothing; use one above 0 and below 1, such as 0.001"
        )
    return rate


def _check(teacher: Generator, student: Generator) -> None:
    a, b = teacher.signature, student.signature
    if a.inputs != b.inputs:
        raise BadInput(f"{student.name} takes other inputs than {teacher.name}; they must agree")
    for what, ours, theirs in (
        ("", list(b.output.shape), list(a.output.shape)),
        ("values from and to ", (b.output.low, b.output.high), (a.output.low, a.output.high)),
        ("layout ", b.layout, a.layout),
        ("styles ", list(b.styles), list(a.styles)),
    ):
        if ours != theirs:
            raise BadInput(f"{student.name} draws {what}{ours}, {teacher.name} {theirs}")


def learnable(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """What a training moves: parameters of floating point that ask for gradients; where none does, as
    in a net that was frozen to draw, all of floating point."""
    every = list(dict.fromkeys(p for m in modules for p in m.parameters() if p.is_floating_point()))
    return [p for p in every if p.requires_grad] or every


def learn_mode(model: nn.Module, share: int) -> None:
    """Training mode, but for batch norm whose statistics are known already, or that would see one
    picture at a time: a student that is nearly its teacher is not thrown off by those of a batch.

    share: pictures of a step in this process.
    """
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            mean, spread = layer.running_mean, layer.running_var
            if mean is None or spread is None:
                continue
            known = bool((mean != 0).any()) or bool((spread != 1).any())
            layer.train(share > 1 and not known)


def _writer(folder: Path | None) -> Any:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingProgram(
            "tensorboard is not installed; run: pip install 'genedge[distill]'"
        ) from None
    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call]


def distill(
    teacher: Generator,
    student: Generator,
    *,
    work: Path,
    prompts: Sequence[str] = (),
    steps: int = 2000,
    batch: int = 16,
    rate: float = 1e-3,
    losses: Mapping[str, float] | None = None,
    components: Sequence[str] = (),
    seed: int = 0,
    tensorboard: Path | None = None,
    report: Report = lambda what, done, total, row: None,
) -> Generator:
    """The student after `steps` of learning from the teacher's own drawings.

    prompts: added to the teacher's calibration prompts; golden prompts are never drawn. batch:
    pictures of a step, over all processes. rate: Adam's. losses: weights that replace those of
    losses.WEIGHTS. components: names of those that learn; all where empty. work: checkpoints, gone
    on with where they are. Runs as it is under `accelerate launch`.

    The result has the exponential moving average of the weights. Raises BadInput where the two do
    not fit, where a prompt can not be drawn, and where training diverges; MissingProgram.
    """
    checked_rate(rate)
    weights = weights_of_losses(losses)
    _check(teacher, student)
    pool = tuple(dict.fromkeys((*teacher.calibration, *prompts)))
    pool = tuple(p for p in pool if p not in teacher.golden) or ("a picture",)
    names = [c.name for c in student.components]
    if unknown := [c for c in components if c not in names]:
        raise BadInput(f"component {unknown[0]!r} is unknown; known: {', '.join(names)}")
    for prompt in pool:
        prepared(teacher, prompt)
    processes = launched()
    if batch % processes.count:
        raise BadInput(f"a batch of {batch} can not be shared by {processes.count} processes")
    feeds = batch_of(teacher, pool, seed, 0, 2)
    check_fits(student, teacher, feeds[0])
    if batch // processes.count > 1:
        check_batches(teacher, feeds)
        check_batches(student, feeds)
    settings = {
        "teacher": teacher.hash(),
        "student": student.hash(),
        "prompts": len(pool),
        "prompts_sha256": hashlib.sha256("\n".join(pool).encode()).hexdigest(),
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "losses": weights,
        "components": sorted(components),
        "seed": seed,
    }
    _check_same(student, processes)
    share = batch // processes.count
    check_learns(student, [feeds[i % 2] for i in range(share)], lambda m: learn_mode(m, share))
    learned = copy.deepcopy(student)
    run = _Run(copy.deepcopy(teacher), learned, pool, weights, components, batch, seed, processes)
    if processes.index == 0:
        remember(work, settings | {"format": FORMAT})
    writer = _writer(tensorboard) if processes.index == 0 else None

    def tell(what: str, done: int, total: int, row: Mapping[str, float]) -> None:
        report(what, done, total, row)
        if writer is not None:
            for key, value in row.items():
                writer.add_scalar(key, value, done)

    def one_step(step: int) -> Mapping[str, Tensor]:
        warm = min(1.0, (step + 1) / (WARM * steps))
        set_rates(run.optimizer, rate * warm * falling(step, steps))
        return run.step(step)

    try:
        run_phase(
            "distill", work, steps, run.state(), one_step, tell, log_every=50,
            writes=processes.index == 0,
        )  # fmt: skip
    finally:
        run.close()
        if writer is not None:
            writer.close()
    note = {"pass": "distill", **settings, "losses": {k: v for k, v in weights.items() if v}}
    made = tuple(
        replace(c, module=m) for c, m in zip(student.components, run.averaged(), strict=True)
    )
    for before, after in zip(student.components, made, strict=True):
        like(before.module, after.module)
    if not all(p.isfinite().all() for c in made for p in c.module.parameters()):
        raise BadInput(
            "training has diverged: weights are not finite; use a lower rate, and another --work"
        )
    return replace(
        student,
        components=made,
        tokenizer=teacher.tokenizer,
        tokenizer_json=teacher.tokenizer_json,
        calibration=teacher.calibration,
        golden=teacher.golden,
        pictures=teacher.pictures,
        history=(*student.history, note),
    )


class _Run:
    """What changes from step to step."""

    def __init__(
        self,
        teacher: Generator,
        student: Generator,
        prompts: Sequence[str],
        weights: Mapping[str, float],
        components: Sequence[str],
        batch: int,
        seed: int,
        processes: Processes,
    ) -> None:
        torch.manual_seed(seed)
        self.teacher, self.student, self.prompts = teacher, student, prompts
        self.weights = {k: v for k, v in weights.items() if v}
        self.batch, self.seed, self.processes = batch, seed, processes
        self.output = teacher.signature.output_name
        self.picture = teacher.signature.output
        self.learning = [c for c in student.components if not components or c.name in components]
        drawing = (*teacher.components, *student.components)
        learning = learnable([c.module for c in self.learning])
        for c in drawing:
            c.module.eval().requires_grad_(False)
        self.twin: Int8Twin | None = None
        if "int8" in self.weights:  # made where its prompts are, which is no GPU
            self.twin = Int8Twin(student, self.batch // processes.count)
            for graph in self.twin.modules():
                graph.to(processes.device)
        for c in drawing:
            c.module.to(processes.device)
        self.model = nn.ModuleList(c.module for c in self.learning)
        for p in learning:
            p.requires_grad_(True)
        self.projections, self.critic = nn.ModuleList(), nn.ModuleList()
        self.taps = Taps(), Taps()
        if "features" in self.weights:
            self._match()
        if "adversarial" in self.weights:
            if len(self.picture.shape) != 4 or min(self.picture.shape[2:]) < 8:
                raise BadInput("the adversarial loss needs pictures of at least 8×8")
            self.critic.append(measures.Critic(self.picture.shape[1]).to(processes.device))
        learn_mode(self.model, self.batch // processes.count)
        self.trained = [*learning, *self.projections.parameters()]
        self.optimizer = torch.optim.Adam(
            [{"params": self.trained, "base": 1.0}], betas=(0.9, 0.99)
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters() if self.critic else [nn.Parameter(torch.zeros(1))],
            2e-4,
            betas=(0.0, 0.99),
        )
        self.average = Average(self._averageable())

    def _averageable(self) -> Named:
        return {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}

    def _match(self) -> None:
        """Finds pairs of layers and fits their projections, on the whole batch in every process."""
        sides = self._partners()
        for taps, side in zip(self.taps, sides, strict=True):
            for name, module in side.items():
                taps.listen(name, module)
        feeds = batch_of(self.teacher, self.prompts, self.seed, 0, self.batch)
        inputs = stacked(feeds if self.batch > 1 else feeds[:1], self.processes.device)
        with torch.no_grad():
            if self.batch // self.processes.count > 1 or self.batch == 1:
                drawn(self.teacher.components, inputs)
                drawn(self.student.components, inputs)
            else:
                first = {k: v[:1] for k, v in inputs.items()}
                drawn(self.teacher.components, first)
                drawn(self.student.components, first)
        seen = self.taps[0].seen, self.taps[1].seen
        pairs = matched(*seen)
        self.close()
        if not pairs:
            raise BadInput(
                "teacher and student share no layer of the same size; use --loss features=0"
            )
        self.projections.append(Projections(pairs, *seen).to(self.processes.device))
        for i, side in enumerate(sides):
            self.taps[i].seen.clear()
            for name, module in side.items():
                wanted = [(p.teacher, p.student)[i] for p in pairs]
                mine = [w.partition(".")[2] for w in wanted if w.partition(".")[0] == name]
                self.taps[i].listen(name, module, mine)

    def _partners(self) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """Components of teacher and student whose layers are compared, under the student's names: those
        of one name, or by place where there are as many and no name is shared."""
        theirs = {c.name: c.module for c in self.teacher.components}
        if not theirs.keys() & {c.name for c in self.student.components}:
            if len(theirs) != len(self.student.components):
                raise BadInput(
                    "teacher and student have other components, so that no layers can be compared; use "
                    "--loss features=0"
                )
            names = (c.name for c in self.student.components)
            theirs = dict(zip(names, theirs.values(), strict=True))
        own = {c.name: c.module for c in self.learning}
        return {n: m for n, m in theirs.items() if n in own}, own

    def _compared(self, teacher: Named, student: Named, rounded: Named | None) -> Named:
        t, s = teacher[self.output], student[self.output]
        scale = 1 / max(1e-6, self.picture.high - self.picture.low)  # a range of 1, as grey levels
        found: Named = {}
        for name in self.weights:
            if name == "output":
                found[name] = measures.output_loss(s * scale, t * scale)
            elif name == "bands":
                found[name] = measures.band_loss(s * scale, t * scale)
            elif name == "relations":
                found[name] = measures.relation_loss(s, t)
            elif name == "adversarial":
                found[name] = measures.adversarial_loss(self.critic[0], s * scale)  # type: ignore[arg-type]
            elif name == "int8":
                assert rounded is not None
                found[name] = measures.int8_loss(rounded[self.output] * scale, s * scale)
            else:
                found[name] = measures.feature_loss(
                    self.projections[0](self.taps[0].seen, self.taps[1].seen)
                )
        return found

    def step(self, step: int) -> Mapping[str, Tensor]:
        """One step; returns each loss, and their weighted sum as "loss"."""
        feeds = batch_of(self.teacher, self.prompts, self.seed, step + 1, self.batch)
        mine = [feeds[i] for i in self.processes.share(self.batch)]
        inputs = stacked(mine, self.processes.device)
        with torch.no_grad(), fast():
            taught = drawn(self.teacher.components, inputs)
        with fast(), self.twin.on_grids(self.learning) if self.twin else nullcontext():
            student = drawn(self.student.components, inputs)
        taught, student = ({k: v.float() for k, v in t.items()} for t in (taught, student))
        rounded = self.twin.draw(inputs) if self.twin else None
        found = self._compared(taught, student, rounded)
        total = torch.stack([self.weights[k] * v for k, v in found.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.trained)
        self.optimizer.step()
        self.average.update(self._averageable())
        if self.critic:
            t, s = taught[self.output], student[self.output]
            self.critic_optimizer.zero_grad()
            scale = 1 / max(1e-6, self.picture.high - self.picture.low)
            measures.critic_loss(self.critic[0], s * scale, t * scale, step % 8 == 0).backward()  # type: ignore
            self.processes.average_gradients(self.critic.parameters())
            self.critic_optimizer.step()
        row = {**{k: v.detach() for k, v in found.items()}, "loss": total.detach()}
        if self.processes.count > 1:
            row = {k: self.processes.mean(v) for k, v in row.items()}
        return row

    def state(self) -> dict[str, Any]:
        return {
            "student": self.model,
            "optimizer": self.optimizer,
            "average": self.average,
            "projections": self.projections,
            "critic": self.critic,
            "critic_optimizer": self.critic_optimizer,
        }

    def averaged(self) -> list[nn.Module]:
        """Modules of all components of the student, on the CPU, with averaged weights."""
        self.model.load_state_dict(self.average.tensors, strict=False)
        if self.twin:
            self.twin.settle(self.learning)
        return [c.module.cpu().eval() for c in self.student.components]

    def close(self) -> None:
        for taps in self.taps:
            taps.close()
            taps.handles.clear()
