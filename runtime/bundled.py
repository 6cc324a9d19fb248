"""The artifacts that the package carries, by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .errors import BadInput, MissingProgram

# By target, the module that runs it; the first that is installed is taken.
BUNDLED_TARGETS = {"openvino": "openvino", "onnx": "onnxruntime"}


def bundled(name: str, prefer: str = "") -> Path:
    """The artifact in the package of this name for a runtime that is installed.

    prefer: the target to take where it is carried and installed.

    Raises BadInput for an unknown name, MissingProgram where no runtime is installed.
    """
    folder = Path(__file__).parent / "artifacts"
    there = [t for t in BUNDLED_TARGETS if (folder / f"{name}-{t}-int8").is_dir()]
    there.sort(key=lambda target: target != prefer)
    if not there:
        known = ", ".join(sorted({d.name.split("-")[0] for d in folder.glob("*-int8")}))
        raise BadInput(f"artifact {name!r} is neither a folder nor bundled; bundled: {known}")
    for target in there:
        if importlib.util.find_spec(BUNDLED_TARGETS[target]) is not None:
            return folder / f"{name}-{target}-int8"
    raise MissingProgram("no runtime is installed; run: pip install 'genedge[openvino]'")


def artifact_path(text: str) -> Path:
    """A folder, or the bundled artifact of this name. Raises what `bundled` raises."""
    path = Path(text)
    return path if path.exists() or "/" in text else bundled(text)
