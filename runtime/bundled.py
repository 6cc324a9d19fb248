"""The artifacts that the package carries, by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .artifact import MANIFEST
from .errors import BadInput, MissingProgram

# By target, the module that runs it; the first that is installed is taken.
BUNDLED_TARGETS = {"openvino": "openvino", "onnx": "onnxruntime"}
FOLDER = Path(__file__).parent / "artifacts"


def bundled_names() -> list[str]:
    """What `bundled` knows."""
    return sorted({d.name.split("-")[0] for d in FOLDER.glob("*-int8")})


def bundled(name: str, prefer: str = "") -> Path:
    """The artifact in the package of this name for a runtime that is installed.

    prefer: the target to take where it is carried and installed.

    Raises BadInput for an unknown name, MissingProgram where no runtime is installed.
    """
    folder = FOLDER
    there = [t for t in BUNDLED_TARGETS if (folder / f"{name}-{t}-int8").is_dir()]
    there.sort(key=lambda target: target != prefer)
    if not there:
        known = ", ".join(bundled_names())
        raise BadInput(f"artifact {name!r} is neither a folder nor bundled; bundled: {known}")
    for target in there:
        if importlib.util.find_spec(BUNDLED_TARGETS[target]) is not None:
            return folder / f"{name}-{target}-int8"
    raise MissingProgram("no runtime is installed; run: pip install 'genedge[openvino]'")


def artifact_path(text: str) -> Path:
    """A folder, or the bundled artifact of this name, which a folder that holds no artifact does not
    hide. Raises what `bundled` raises."""
    path = Path(text)
    if "/" in text or (path / MANIFEST).is_file():
        return path
    return path if path.exists() and text not in bundled_names() else bundled(text)
