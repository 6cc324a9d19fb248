"""generate."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genedge.runtime.errors import BadInput

from .options import Debug, Quiet, Threads, artifact_path, check_writable


def read_prompts(file: Path) -> list[str]:
    """The lines of a file that are not blank. Raises BadInput where it can not be used."""
    try:
        lines = re.split("\r\n|\n|\r", file.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise BadInput(f"{file} can not be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text; save it as UTF-8") from None
    found = [line for line in lines if line.strip()]
    if not found:
        raise BadInput(f"{file} holds no prompt; write one on each line")
    return found


def _prompts(prompt: str | None, file: Path | None, takes_text: bool) -> list[str]:
    if not takes_text and file is None:
        return [prompt or ""]
    if (prompt is None) == (file is None):
        raise BadInput("give one prompt, or a file of prompts with --file")
    return [prompt or ""] if file is None else read_prompts(file)


def _numbered(
    out: Path | None, prompt: str, seed: int, index: int, total: int, more: Sequence[str] = ()
) -> Path:
    """more: what else the picture was asked to be, in the name where it is made here."""
    if out is None:
        words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "picture"
        slug = "-".join([words, *more])
        return Path(f"{slug}-{seed}.png" if total == 1 else f"{slug}-{seed}-{index + 1}.png")
    if out.suffix.lower() != ".png":
        raise BadInput(f"{out} must end in .png")
    return out if total == 1 else out.with_name(f"{out.stem}-{index + 1}{out.suffix}")


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Prompts, one on each line.")] = None,
    artifact: Annotated[str, typer.Option(help="A folder, or a bundled name.")] = "emoji",
    seed: Annotated[int | None, typer.Option(help="0 to 2^63-1; drawn where left out.")] = None,
    count: Annotated[int, typer.Option(min=1, max=10000, help="Pictures of each prompt.")] = 1,
    style: Annotated[str, typer.Option(help="A style of the generator.")] = "",
    background: Annotated[str, typer.Option(help="white, transparent or #rrggbb.")] = "transparent",
    image: Annotated[
        list[str] | None,
        typer.Option(help="A picture that the generator starts from; NAME=FILE where several."),
    ] = None,
    upscale: Annotated[
        bool, typer.Option("--upscale", help="Four times as wide and high, by a second artifact.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="PNG to write; numbered where several.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also write all as a contact sheet.")] = None,
    threads: Threads = 1,
    json_out: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pictures of a prompt with an artifact."""
    from genedge.runtime.artifact import read_artifact
    from genedge.runtime.enlarge import by, enlarged, load_upscaler
    from genedge.runtime.image import named_files, read_image
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
    signature = read_artifact(artifact_path(artifact)).signature
    prompts = _prompts(prompt, file, signature.takes_text)
    if prompt and not signature.takes_text:
        print(f"genedge: warning: it takes no text; {prompt!r} has no effect", file=sys.stderr)
    if seed is not None and not signature.uses_seed:
        print("genedge: warning: nothing is drawn from the seed; it has no effect", file=sys.stderr)
    pictures = {
        name: read_image(path, name, signature.images[name])
        for name, path in named_files(image or [], signature).items()
    }
    first = new_seed() if seed is None else checked_seed(seed)
    if first > LARGEST_SEED - (count - 1):
        raise BadInput(f"seed {first} with --count {count} leaves the range 0 to {LARGEST_SEED}")
    total = len(prompts) * count
    check_writable(sheet, _numbered(out, prompts[0], first, 0, total))
    if sheet is not None and sheet.resolve() in {
        _numbered(out, prompts[i // count], first + i % count, i, total).resolve()
        for i in range(total)
    }:
        raise BadInput(f"{sheet} would be a picture and the contact sheet; name another --sheet")
    pipeline = load(artifact_path(artifact), threads)
    upscaler = load_upscaler(pipeline, threads) if upscale else None
    for text in prompts:  # each is looked at before the first is drawn
        pipeline.prepare(text, first, style, pictures)
    images, rows = [], []
    for i in range(total):
        feed = pipeline.prepare(prompts[i // count], first + i % count, style, pictures)
        pixels = pipeline.pixels(feed)
        for warning in (*feed.warnings, suspicion(pixels)):
            if warning:
                print(f"genedge: warning: {warning}", file=sys.stderr)
        if upscaler is not None:
            pixels = enlarged(pixels, by(upscaler), ground)
        drawn = to_image(pixels, ground)
        more = [m for m in (style, "upscaled" if upscale else "") if m]
        path = _numbered(out, feed.prompt, feed.seed, i, total, more)
        about = {"Software": "genedge", **pipeline.about(feed)}
        if upscaler is not None:
            about["upscaler"] = upscaler.artifact.hash
        save_png(drawn, path, about)
        if sheet is not None:
            images.append(drawn)
        rows.append({"file": str(path), **{k: about[k] for k in ("prompt", "seed", "style")}})
        if not quiet and not json_out:
            print(f"{path}  seed {feed.seed}" + (f"  style {feed.style}" if feed.style else ""))
    if sheet is not None:
        columns = count if count > 1 else min(8, max(1, round(total**0.5 * 1.3)))
        save_png(contact_sheet(images, columns), sheet, {"Software": "genedge"})
    if json_out:
        print(json.dumps({"artifact": pipeline.artifact.hash, "pictures": rows}, indent=1))
