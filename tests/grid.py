"""Figures of the long grid of pipelines: kept while tests run, then written as a table.

GENEDGE_GRID=build/grid.json pytest -m grid …
python tests/grid.py build/grid.json docs/pipelines-grid.md
"""

import json
import os
import sys
from pathlib import Path

from filelock import FileLock

TARGETS = ("onnx", "openvino", "executorch")
TITLES = {
    "stable-diffusion": "Stable Diffusion, DDIM, 2 steps",
    "dpm": "the same, DPM-Solver++(2M), v-prediction, 4 steps",
    "turbo": "one step, tiny autoencoder",
    "lcm": "latent consistency, 2 steps",
    "xl": "XL, two text encoders, Euler, 2 steps",
    "sd3": "Stable Diffusion 3, flow matching, 2 steps",
}


def note(kind, target, precision, **figures):
    """Keeps the figures of one artifact in the file that GENEDGE_GRID names; nothing without it."""
    if "GENEDGE_GRID" not in os.environ:
        return
    path = Path(os.environ["GENEDGE_GRID"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows[f"{kind} {target} {precision}"] = figures
        path.write_text(json.dumps(rows, indent=1))


def page(rows):
    """docs/pipelines-grid.md."""
    lines = [
        "# Tiny pipelines, every kind on every target",
        "",
        "<!-- Written by make test-all; do not edit. -->",
        "",
        "float: PSNR of one picture of the fp32 artifact to diffusers' own pipeline on the same",
        "latents, in dB (100: equal bytes). int8: mean and worst PSNR of four golden prompts to the",
        "float pipeline, and what the decoder became. The weights are random and the nets have 16",
        "channels: int8 figures say that the path works, and nothing about a trained model.",
        "",
        f"| | {' | '.join(f'{t} float | int8' for t in TARGETS)} |",
        f"|---|{'---|' * (2 * len(TARGETS))}",
    ]
    for kind, title in TITLES.items():
        cells = []
        for target in TARGETS:
            plain, small = (rows.get(f"{kind} {target} {p}") for p in ("fp32", "int8"))
            cells.append(f"{plain['psnr']:.1f}" if plain else "not run")
            cells.append(
                f"{small['psnr']:.1f}, {small['worst']:.1f}, {small['decoder']}"
                if small
                else "not run"
            )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(json.loads(Path(sys.argv[1]).read_text())))
