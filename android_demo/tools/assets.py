"""Writes the artifacts of the bundled generator into the app's assets, and says what they take.

ExecuTorch is exported for ARM; where that misses a limit, as the portable profile, which any CPU
runs. For ONNX Runtime it is the artifact that the wheel carries, whose
weights suit every CPU, the emulator's too.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from genedge.runtime.artifact import Artifact, check_files, read_artifact
from genedge.runtime.errors import BadInput, GenedgeError, LimitMissed

ROOT = Path(__file__).resolve().parent.parent.parent
ASSETS = ROOT / "android_demo" / "app" / "src" / "main" / "assets" / "artifacts"
BUNDLED = ROOT / "runtime" / "artifacts" / "emoji-onnx-int8"


def assemble(folders: list[Path], out: Path) -> list[Artifact]:
    """`out` holds copies of these artifacts and nothing else; each is checked by hash first.

    Raises BadInput where a file is missing or changed; then `out` is as it was.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for folder in folders:
            check_files(read_artifact(folder), golden=True)
            shutil.copytree(folder, partial / folder.name)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [read_artifact(out / folder.name) for folder in folders]


def sizes(artifacts: list[Artifact]) -> str:
    """A table in MB = 10⁶ bytes: what drawing needs, and the golden pictures."""
    lines = [f"{'in the APK and again on the device':40} {'to draw':>9} {'golden':>9}"]
    draw = golden = 0
    for one in artifacts:
        extra = one.golden.bytes if one.golden else 0
        draw, golden = draw + one.bytes, golden + extra
        lines.append(f"{one.directory.name:40} {one.bytes / 1e6:6.2f} MB {extra / 1e6:6.2f} MB")
    lines.append(f"{'all':40} {draw / 1e6:6.2f} MB {golden / 1e6:6.2f} MB")
    return "\n".join(lines)


def main() -> None:
    from genedge.toolkit.export import export
    from genedge.toolkit.models import resolve
    from genedge.toolkit.progress import reporting

    generator = resolve("emoji")
    if read_artifact(BUNDLED).generator_hash != generator.hash():
        raise BadInput(f"{BUNDLED} is of other weights than the generator; run make bundle")
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        for cpu in ("arm", "portable"):
            try:
                with reporting(False) as progress:
                    done = export(
                        generator, ["executorch"], cpu=cpu, out=Path(folder), progress=progress
                    )
                break
            except LimitMissed as missed:
                if cpu == "portable":
                    raise
                print(f"android-assets: {missed}; the portable profile is tried", file=sys.stderr)
        print(sizes(assemble([done[0].directory, BUNDLED], ASSETS)))


if __name__ == "__main__":
    try:
        main()
    except GenedgeError as problem:
        print(f"android-assets: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
