"""Runs a task in a process of its own, so that a crash of a runtime is one line and not the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import EnvironmentFailed, GenedgeError


class ChildFailed(GenedgeError):
    """A child's own one-line error, with the exit code that it asked for."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def how_it_ended(code: int, stderr: str) -> str:
    """One line on a process that died: its signal or exit code, and the last line it printed."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    last = stderr.strip().splitlines()[-1:] or ["nothing was printed"]
    return f"the process that ran it {how} ({last[0][:200]})"


def run_in_child(task: str, **arguments: Any) -> dict[str, Any]:
    """The result of `task` with `arguments`, all of them JSON.

    Raises ChildFailed with the child's message and exit code; EnvironmentFailed where the process
    died: the message names the signal.
    """
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [sys.executable, "-P", "-m", "genedge.runtime.child", str(answer)],
            input=json.dumps({"task": task, **arguments}),
            capture_output=True,
            text=True,
        )
        if done.returncode == -signal.SIGINT:
            raise KeyboardInterrupt
        try:
            row = json.loads(answer.read_text())
        except (OSError, ValueError):  # none, or half of one: it died, or the disk is full
            raise EnvironmentFailed(how_it_ended(done.returncode, done.stderr)) from None
    if "error" in row:
        raise ChildFailed(row["error"], row["exit_code"])
    return row["result"]  # type: ignore[no-any-return]


def _main(path: Path) -> None:
    request = json.load(sys.stdin)
    task = request.pop("task")
    try:
        if task == "measure":
            from .measure import measure

            files = {k: Path(request[k]) for k in ("golden", "drawn") if request.get(k)}
            result: Any = measure(
                Path(request["directory"]), request["prompts"], request["threads"], **files
            )
        elif task == "sample":
            from .interface import sample

            out = Path(request["out"])
            result = sample(Path(request["directory"]), request["count"], out)
        elif task == "stored":
            from .inspect import stored_in

            result = stored_in(request["target"], Path(request["path"]))
        else:
            raise GenedgeError(f"unknown task {task!r}")
        row = {"result": result}
    except GenedgeError as problem:
        row = {"error": str(problem), "exit_code": problem.exit_code}
    except MemoryError:
        row = {"error": "memory ran out", "exit_code": 4}
    except Exception as problem:
        last = str(problem).strip().splitlines()[-1:] or [""]
        row = {"error": f"{type(problem).__name__}: {last[0][:300]}", "exit_code": 4}
    path.write_text(json.dumps(row))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
