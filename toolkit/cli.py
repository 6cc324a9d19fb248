"""The command line: parses, calls one function, prints. torch is imported by the verbs that need it."""

from __future__ import annotations

import errno
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from genedge.runtime.artifact import CPUS, PRECISIONS, TARGETS
from genedge.runtime.errors import BadInput, GenedgeError

app = typer.Typer(
    name="genedge",
    help="Compress, export and verify text-to-image generators for phones and small CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads to run on.")]
Model = Annotated[
    str, typer.Argument(help="emoji, a folder saved by genedge, or package.module:function.")
]
BUNDLED_TARGETS = ("openvino", "onnx")


def bundled(name: str) -> Path:
    """The artifact in the package of this name for a runtime that is installed.

    Raises BadInput for an unknown name, MissingProgram where no runtime is installed.
    """
    import importlib.util

    from genedge.runtime.errors import MissingProgram

    folder = Path(str(importlib.util.find_spec("genedge.runtime").origin)).parent / "artifacts"  # type: ignore[union-attr]
    there = [t for t in BUNDLED_TARGETS if (folder / f"{name}-{t}-int8").is_dir()]
    if not there:
        raise BadInput(f"artifact {name!r} is neither a folder nor bundled; bundled: emoji")
    modules = {"openvino": "openvino", "onnx": "onnxruntime"}
    for target in there:
        if importlib.util.find_spec(modules[target]) is not None:
            return folder / f"{name}-{target}-int8"
    raise MissingProgram("no runtime is installed; run: pip install 'genedge[openvino]'")


def _artifact_path(text: str) -> Path:
    path = Path(text)
    return path if path.exists() or "/" in text else bundled(text)


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise BadInput("give one prompt, or a file of prompts with --file")
    if file is None:
        return [prompt or ""]
    try:
        lines = file.read_bytes().decode("utf-8").splitlines()
    except OSError as problem:
        raise BadInput(f"{file} can not be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text; save it as UTF-8") from None
    found = [line for line in lines if line.strip()]
    if not found:
        raise BadInput(f"{file} holds no prompt; write one on each line")
    return found


def _numbered(out: Path | None, prompt: str, seed: int, index: int, total: int) -> Path:
    if out is None:
        slug = re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "picture"
        return Path(f"{slug}-{seed}.png" if total == 1 else f"{slug}-{seed}-{index + 1}.png")
    if out.suffix.lower() != ".png":
        raise BadInput(f"{out} must end in .png")
    return out if total == 1 else out.with_name(f"{out.stem}-{index + 1}{out.suffix}")


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Prompts, one on each line.")] = None,
    artifact: Annotated[str, typer.Option(help="A folder, or a bundled name.")] = "emoji",
    seed: Annotated[int | None, typer.Option(help="0 to 2^63-1; drawn where left out.")] = None,
    count: Annotated[int, typer.Option(min=1, max=10000, help="Pictures of each prompt.")] = 1,
    style: Annotated[str, typer.Option(help="A style of the generator.")] = "",
    background: Annotated[str, typer.Option(help="white, transparent or #rrggbb.")] = "transparent",
    out: Annotated[Path | None, typer.Option(help="PNG to write; numbered where several.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also write all as a contact sheet.")] = None,
    threads: Threads = 1,
    json_out: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pictures of a prompt with an artifact."""
    from genedge.runtime.noise import LARGEST_SEED, checked_seed, new_seed
    from genedge.runtime.picture import (
        contact_sheet,
        parse_background,
        save_png,
        suspicion,
        to_image,
    )
    from genedge.runtime.run import load

    ground = parse_background(background)
    prompts = _prompts(prompt, file)
    first = new_seed() if seed is None else checked_seed(seed)
    if first > LARGEST_SEED - count:
        raise BadInput(f"seed {first} with --count {count} leaves the range 0 to {LARGEST_SEED}")
    total = len(prompts) * count
    _numbered(out, prompts[0], first, 0, total)
    pipeline = load(_artifact_path(artifact), threads)
    for text in prompts:  # each is looked at before the first is drawn
        pipeline.prepare(text, first, style)
    images, rows = [], []
    for i in range(total):
        feed = pipeline.prepare(prompts[i // count], first + i % count, style)
        pixels = pipeline.pixels(feed)
        for warning in (*feed.warnings, suspicion(pixels)):
            if warning:
                print(f"genedge: warning: {warning}", file=sys.stderr)
        image = to_image(pixels, ground)
        path = _numbered(out, feed.prompt, feed.seed, i, total)
        about = {
            "Software": "genedge",
            "prompt": feed.prompt,
            "seed": str(feed.seed),
            "style": feed.style,
            "model": pipeline.artifact.name,
            "artifact": pipeline.artifact.hash,
        }
        save_png(image, path, about)
        if sheet is not None:
            images.append(image)
        rows.append({"file": str(path), **{k: about[k] for k in ("prompt", "seed", "style")}})
        if not quiet and not json_out:
            print(f"{path}  seed {feed.seed}" + (f"  style {feed.style}" if feed.style else ""))
    if sheet is not None:
        columns = count if count > 1 else min(8, max(1, round(total**0.5 * 1.3)))
        save_png(contact_sheet(images, columns), sheet, {"Software": "genedge"})
    if json_out:
        print(json.dumps({"artifact": pipeline.artifact.hash, "pictures": rows}, indent=1))


@app.command()
def verify(
    artifacts: Annotated[list[str], typer.Argument(help="Folders, or bundled names.")],
    reference: Annotated[
        str | None, typer.Option(help="MODEL to recompute the golden pictures with.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Golden prompts to use.")] = None,
    min_psnr: Annotated[float | None, typer.Option(help="dB, mean over prompts.")] = None,
    min_ssim: Annotated[float | None, typer.Option(help="Mean over prompts.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of the artifact.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="ms, median, one picture.")] = None,
    threads: Threads = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="File for JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for Markdown.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare artifacts with the float generator's pictures, and hold them to limits."""
    from rich.console import Console

    from genedge.runtime import report
    from genedge.runtime.verify import Limits, Report
    from genedge.runtime.verify import verify as run

    from .progress import reporting

    paths = [_artifact_path(a) for a in artifacts]
    stale: list[Any] = []
    with reporting(quiet) as progress:
        if reference is not None:
            from .reference import stale_rows

            stale = stale_rows(paths, reference, progress)
        limits = Limits(psnr=min_psnr, ssim=min_ssim, bytes=max_bytes, latency=max_latency)
        found = run(paths, prompts=prompts, threads=threads, limits=limits, report=progress)
    found = Report((*found.rows, *stale), found.details)
    for path, text in (
        (json_file, report.to_json),
        (junit, report.to_junit),
        (markdown, report.to_markdown),
    ):
        if path is not None:
            _write_text(path, text(found))
    if not quiet:
        Console().print(report.to_table(found))
        count = found.details[0]["prompts"] if found.details else 0
        verdict = f"{len(found.failed)} limit(s) missed" if found.failed else "all limits held"
        print(f"{verdict}: {len(paths)} artifact(s), {count} prompts, {threads} thread(s)")
    if found.failed:
        raise typer.Exit(1)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as problem:
        partial.unlink(missing_ok=True) if path.parent.is_dir() else None
        if problem.errno == errno.ENOSPC:
            raise
        raise BadInput(f"{path} can not be written ({problem.strerror})") from None


@app.command()
def export(
    model: Model = "emoji",
    target: Annotated[
        str, typer.Option(help=f"{', '.join(TARGETS)}, or all.", show_default=False)
    ] = "",
    precision: Annotated[str, typer.Option(help=", ".join(PRECISIONS))] = "int8",
    cpu: Annotated[str, typer.Option(help=f"For int8: {', '.join(CPUS)}.")] = "portable",
    min_psnr: Annotated[float | None, typer.Option(help="dB; write nothing below it.")] = None,
    float_layers: Annotated[
        str, typer.Option(help="component.module names that stay float, by commas.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for artifacts.")] = Path("artifacts"),
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write verified artifacts of a generator."""
    if target not in (*TARGETS, "all"):
        raise BadInput(f"target {target!r} is unknown; use --target {'|'.join(TARGETS)}|all")
    from genedge.runtime.artifact import read_artifact
    from genedge.runtime.verify import Limits

    from .progress import reporting

    _need_torch()
    from .export import export as run
    from .generator import resolve

    targets = list(TARGETS) if target == "all" else [target]
    if target == "all" and precision == "fp16":
        targets.remove("executorch")
        print("genedge: executorch has no fp16 and is left out", file=sys.stderr)
    with reporting(quiet) as progress:
        done = run(
            resolve(model),
            targets,
            precision=precision,
            cpu=cpu,
            out=out,
            force=force,
            keep=[k.strip() for k in float_layers.split(",") if k.strip()],
            limits=Limits(psnr=min_psnr),
            progress=progress,
        )
    if not quiet:
        for one in done:
            size = read_artifact(one.directory).bytes / 1e6
            print(
                f"{one.directory}  {size:.2f} MB  PSNR {one.found['psnr']:.1f} dB "
                f"(worst {one.found['psnr_worst']:.1f})  SSIM {one.found['ssim']:.3f}"
            )


def _need_torch() -> None:
    import importlib
    import importlib.util

    from genedge.runtime.errors import MissingProgram

    missing = [m for m in ("torch", "torchao", "safetensors") if not importlib.util.find_spec(m)]
    if missing:
        raise MissingProgram(
            f"this verb needs {', '.join(missing)}; run: pip install 'genedge[toolkit]'"
        )
    from genedge.runtime.silence import silenced

    with silenced():  # torchao names each of its libraries for GPUs that does not load
        importlib.import_module("torchao.quantization.pt2e")


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="emoji")] = "emoji",
    out: Annotated[Path, typer.Option(help="Folder for the trained generator.")] = Path("trained"),
    work: Annotated[Path, typer.Option(help="Checkpoints; resumed from.")] = Path(".train"),
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a bundled generator from its data; resumes where it stopped."""
    _need_torch()
    _only_emoji(model)
    from .progress import reporting
    from .zoo.emoji.train import train as run

    if out.exists() and not force:
        raise BadInput(f"{out} exists already; use --force to replace it, or another --out")
    with reporting(quiet) as progress:
        last: dict[str, str] = {}

        def report(what: str, done: int, total: int, row: Any) -> None:
            progress(what, done, total)
            text = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if "_" in k)
            if text and not quiet and last.get(what) != text:
                print(f"{what} {done}: {text}", file=sys.stderr, flush=True)
                last[what] = text

        run(work, cache, out, report, force)
    if not quiet:
        print(out)


def _only_emoji(model: str) -> None:
    if model != "emoji":
        raise BadInput(f"model {model!r} is unknown here; the one with training data is emoji")


@app.command()
def evaluate(
    model: Model = "emoji",
    cache: Annotated[Path, typer.Option(help="Downloads and the data set.")] = Path(".cache"),
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a generator of emoji against the real art: PSNR, retrieval, sharpness."""
    _need_torch()
    from .generator import resolve
    from .progress import reporting
    from .zoo.emoji.train import evaluate as run
    from .zoo.emoji.train import load_data

    generator = resolve(model)
    if generator.constructor != "emoji":
        raise BadInput(f"{model} does not draw emoji; there is no real art to compare with")
    with reporting(quiet) as progress:
        art = load_data(cache, lambda what, done, total, row: progress(what, done, total))
        scores = run(generator, art)
    if json_out:
        print(json.dumps(scores, indent=1))
    elif not quiet:
        for name, value in scores.items():
            print(f"{name:20} {value:.4f}")


def main() -> None:
    """Runs the command line; every failure is one line and an exit code of the documentation."""
    debug = "--debug" in sys.argv
    code = 0
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == 130:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except TyperException as problem:
        text, code = problem.format_message(), 2
        if text.startswith("Usage:"):  # no arguments at all: the help
            print(text)
        else:
            _fail(" ".join(text.split()), code, debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted; nothing half-written is left", 130, debug)
    except GenedgeError as problem:
        code = _fail(str(problem), problem.exit_code, debug)
    except MemoryError:
        code = _fail("memory ran out; close other programs and try again", 4, debug)
    except BrokenPipeError:
        code = 0
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; free some space" if full else str(problem)
        code = _fail(what, 4, debug)
    except Exception as problem:
        last = str(problem).strip().splitlines()[:1] or [""]
        text = f"unexpected {type(problem).__name__}: {last[0][:200]}; --debug shows where"
        code = _fail(text, 4, debug)
    sys.exit(code)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"genedge: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
