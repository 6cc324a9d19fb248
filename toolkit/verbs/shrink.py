"""prune, distill."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genedge.runtime.artifact import check_out
from genedge.runtime.errors import BadInput, MissingProgram
from genedge.runtime.noise import LARGEST_SEED

from .draw import read_prompts
from .options import Debug, Model, Quiet, check_folder, need_torch

Out = Annotated[Path, typer.Option(help="Folder for the new generator.")]
Force = Annotated[bool, typer.Option("--force", help="Replace --out.")]
Components = Annotated[str, typer.Option(help="Names of components, by commas; all if left out.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures of a step, over all processes.")]
Rate = Annotated[float, typer.Option(help="Adam's learning rate.")]
Loss = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=WEIGHT; may be repeated. Names: output, features, bands, relations, "
        "adversarial, int8."
    ),
]
PromptFile = Annotated[Path | None, typer.Option(help="More prompts, one on each line.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the drawings to learn from.")]
Work = Annotated[Path | None, typer.Option(help="Checkpoints; resumed from. OUT.work if left out.")]
Tensorboard = Annotated[Path | None, typer.Option(help="Folder for a TensorBoard log.")]
JUDGING_SEED = 10_000  # of the drawings that recovery is judged by: no golden picture has it
Json = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def _losses(words: list[str] | None) -> dict[str, float]:
    from ..distill import weights_of_losses

    found = {}
    for word in words or []:
        name, _, weight = word.partition("=")
        try:
            found[name] = float(weight)
        except ValueError:
            raise BadInput(f"--loss {word}: write NAME=WEIGHT, for example bands=0.5") from None
    weights_of_losses(found)
    return found


def _work(out: Path, force: bool, work: Path | None, log: Path | None = None) -> Path:
    """The folder of checkpoints. Raises BadInput where it, `log` or `out` could not be written, or one
    lies in `out`, which is written last."""
    check_out(out, force)
    folder = work or out.with_name(out.name + ".work")
    for what, place in (("--work", folder), ("--tensorboard", log)):
        if place is None:
            continue
        if place.resolve().is_relative_to(out.resolve()):
            raise BadInput(
                f"{what} {place} lies in {out}, which is written whole at the end; name another"
            )
        check_folder(place)
    return folder


def _warn(teacher: Any, prompts: Sequence[str]) -> None:
    """Says once what of the prompts is not drawn. Raises BadInput where one can not be drawn."""
    from ..drawings import prepared

    if prompts and not teacher.signature.takes_text:
        raise BadInput(f"{teacher.name} takes no text; leave --prompts out")
    for prompt in prompts:
        for warning in prepared(teacher, prompt).warnings:
            print(f"genedge: warning: {warning}", file=sys.stderr)


def _learn(teacher: Any, student: Any, work: Path, quiet: bool, title: str, **options: Any) -> Any:
    from ..distill import distill as run
    from ..progress import reporting

    with reporting(quiet) as progress:

        def report(what: str, done: int, total: int, row: Mapping[str, float]) -> None:
            progress(title, done, total)

        return run(teacher, student, work=work, report=report, **options)


def _clear(folder: Path) -> None:
    """Removes the checkpoints of a finished run, and nothing else that lies there."""
    from ..distill import FILES

    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _main_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def prune(
    model: Model = "emoji",
    ratio: Annotated[
        float | None, typer.Option(help="Share of the removable channels, 0 to 1.")
    ] = None,
    target_macs: Annotated[
        int | None, typer.Option(min=1, help="Multiply-adds of one picture.")
    ] = None,
    target_bytes: Annotated[
        int | None, typer.Option(min=1, help="Bytes of the weights as int8.")
    ] = None,
    importance: Annotated[
        str, typer.Option(help="magnitude, taylor, activation or sensitivity.")
    ] = "taylor",
    scope: Annotated[
        str, typer.Option(help="global: layers compete; layer: each gives the same share.")
    ] = "global",
    keep: Annotated[str, typer.Option(help="component.layer names to leave alone.")] = "",
    also: Annotated[
        str, typer.Option(help="First or last convolutions that may lose channels too.")
    ] = "",
    components: Components = "",
    recover: Annotated[
        int, typer.Option(min=0, help="Steps of distillation from MODEL afterwards.")
    ] = 500,
    batch: Batch = 16,
    rate: Rate = 2e-4,
    loss: Loss = None,
    prompts: PromptFile = None,
    seed: Seed = 0,
    work: Work = None,
    out: Out = Path("pruned"),
    force: Force = False,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove whole channels from a generator, then let it learn from what it was."""
    need_torch()
    _need_pruning()
    from ..distill import checked_rate
    from ..drawings import batch_of, check_batches, psnr_to
    from ..models import resolve
    from ..progress import reporting
    from ..prune import prune as run
    from ..saved import save

    folder, rate = _work(out, force, work), checked_rate(rate)
    losses, more = _losses(loss), read_prompts(prompts) if prompts else []
    teacher = resolve(model)
    _warn(teacher, more)
    if recover and batch > 1:  # said before the work
        check_batches(teacher, batch_of(teacher, teacher.calibration or ("a picture",), seed, 0, 2))
    with reporting(quiet) as progress:
        made = run(
            teacher,
            ratio=ratio,
            target_macs=target_macs,
            target_bytes=target_bytes,
            importance=importance,
            scope=scope,
            keep=_words(keep),
            also=_words(also),
            components=_words(components),
            progress=progress,
        )
    note = made.history[-1]
    found: dict[str, Any] = {**note, "psnr_pruned": psnr_to(teacher, made)}
    if recover:
        better = _learn(
            teacher, made, folder, quiet, "recover", prompts=more, steps=recover, batch=batch,
            rate=rate, losses=losses, components=_words(components), seed=seed,
        )  # fmt: skip
        judged = teacher.calibration[:32]  # not the golden prompts, which must stay unseen
        after, before = (psnr_to(teacher, g, judged, JUDGING_SEED) for g in (better, made))
        found["recovery_kept"] = after > before
        made = better if found["recovery_kept"] else made
        found["psnr_recovered"] = psnr_to(teacher, made)
    if not _main_process():
        return
    save(made, out, force=force)
    if recover and work is None:
        _clear(folder)
    if json_out:
        print(json.dumps({"out": str(out), **found}, indent=1))
    elif not quiet:
        for name, (old, new) in note["pruned"].items():
            print(f"{name}: {old} → {new}")
        for name, reason in note["left_alone"].items():
            print(f"{name}: left alone: {reason}")
        (macs, macs_now), (size, size_now) = note["multiply_adds"], note["int8_bytes"]
        said = f", {found['psnr_recovered']:.1f} dB after recovery" if recover else ""
        if recover and not found["recovery_kept"]:
            said = "; recovery made it worse and was left out: try more steps or a lower --rate"
        may, went = note["channels"]
        print(
            f"{out}  ratio {note['ratio']:.2f} ({went:,} of {may:,} channels went)  {macs / 1e6:.1f} → {macs_now / 1e6:.1f} M multiply-adds"
            f"  {size / 1e6:.2f} → {size_now / 1e6:.2f} MB as int8  PSNR to {teacher.name} "
            f"{found['psnr_pruned']:.1f} dB{said}"
        )


def _need_pruning() -> None:
    import importlib.util

    if importlib.util.find_spec("torch_pruning") is None:
        raise MissingProgram("this verb needs torch-pruning; run: pip install 'genedge[toolkit]'")


def distill(
    teacher: Annotated[str, typer.Argument(help="The generator to learn from, as MODEL.")],
    student: Annotated[
        str, typer.Option(help="MODEL, or package.module:function of untrained modules.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps of Adam.")] = 2000,
    batch: Batch = 16,
    rate: Rate = 1e-3,
    loss: Loss = None,
    components: Components = "",
    prompts: PromptFile = None,
    seed: Seed = 0,
    work: Work = None,
    tensorboard: Tensorboard = None,
    out: Out = Path("distilled"),
    force: Force = False,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Teach a student to draw what its teacher draws, without pictures; resumes."""
    if not student:
        raise BadInput("name the student with --student")
    need_torch()
    from ..distill import checked_rate, student_of
    from ..drawings import judged_prompts, psnr_to
    from ..models import resolve
    from ..saved import save

    folder, rate = _work(out, force, work, tensorboard), checked_rate(rate)
    losses, more = _losses(loss), read_prompts(prompts) if prompts else []
    master = resolve(teacher)
    pupil = student_of(student, master)
    _warn(master, more)
    made = _learn(
        master, pupil, folder, quiet, "distill", prompts=more, steps=steps, batch=batch, rate=rate,
        losses=losses, components=_words(components), seed=seed, tensorboard=tensorboard,
    )  # fmt: skip
    if not _main_process():
        return
    found = {"before": psnr_to(master, pupil), "after": psnr_to(master, made)}
    if found["after"] < found["before"] and not losses.get("int8"):
        print(
            "genedge: warning: the student is further from its teacher than before; try more steps or a "
            "lower --rate",
            file=sys.stderr,
        )
    save(made, out, force=force)
    if work is None:
        _clear(folder)
    if json_out:
        print(json.dumps({"out": str(out), "psnr": found, **made.history[-1]}, indent=1))
    elif not quiet:
        judged, called = judged_prompts(master)
        print(
            f"{out}  PSNR to {master.name} {found['before']:.1f} → {found['after']:.1f} dB "
            f"({len(judged)} {called})"
        )
