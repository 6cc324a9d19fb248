"""A process that stays: it loads one artifact and draws on request, so that several take turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .child import ChildFailed, how_it_ended
from .errors import EnvironmentFailed, GenedgeError
from .signature import Signature

_FALLBACK_PROMPT = "a red apple"


class Worker:
    """The parent's side. `cold_start_s`: from starting the process to its first picture.

    Raises what loading the artifact raises; EnvironmentFailed where the process died.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` does
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "genedge.runtime.worker", str(directory), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - began

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request; see `_answer_to`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading says how
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = self._process.wait()
            self._stderr.seek(0)
            raise EnvironmentFailed(
                how_it_ended(code, self._stderr.read().decode(errors="replace"))
            )
        row = json.loads(line)
        if "error" in row:
            raise ChildFailed(row["error"], row["exit_code"])
        return row  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    The kernel's VmHWM: unlike getrusage's, it starts anew when a program is started.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(largest) if sys.platform == "darwin" else int(largest) * 1024
    line = next(row for row in status.splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _blank(signature: Signature) -> dict[str, np.ndarray]:
    """Black pictures for the image inputs."""
    sizes = {n: s.shape[1:] for n, s in signature.images.items()}
    return {n: np.zeros((h, w, c), np.uint8) for n, (c, h, w) in sizes.items()}


def _main(directory: Path, threads: int) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer

    def answer(row: dict[str, Any]) -> None:
        out.write(json.dumps(row).encode() + b"\n")
        out.flush()

    try:
        from .artifact import read_golden
        from .run import load, pinned

        pipeline = load(directory, threads)
        prompts, images = [_FALLBACK_PROMPT], [_blank(pipeline.artifact.signature)]
        with contextlib.suppress(GenedgeError):  # an app may have deleted them
            golden = read_golden(pipeline.artifact)
            prompts = list(golden.prompts)
            images = [golden.images_of(i) for i in range(len(prompts))]
        first = pipeline.prepare(prompts[0], 0, images=images[0])
        pipeline.to_pixels(pipeline.outputs(first.inputs))
        answer({"pinned": pinned(pipeline)})
        for line in sys.stdin.buffer:
            request = json.loads(line)
            prompt = prompts[request["round"] % len(prompts)]
            picture = images[request["round"] % len(prompts)]
            latency, whole = [], []
            for i in range(request["runs"] + 1):
                began = time.perf_counter()
                feed = pipeline.prepare(prompt, request["round"], images=picture)
                ready = time.perf_counter()
                values = pipeline.outputs(feed.inputs)  # verify says what is not finite
                done = time.perf_counter()
                pipeline.to_pixels(values)
                end = time.perf_counter()
                if i:  # the first fills the caches, which another process had
                    latency.append((done - ready) * 1000)
                    whole.append((end - began) * 1000)
            answer({"latency_ms": latency, "picture_ms": whole, "peak_memory": peak_memory()})
    except GenedgeError as problem:
        answer({"error": str(problem), "exit_code": problem.exit_code})
    except MemoryError:
        answer({"error": "memory ran out", "exit_code": 4})
    except Exception as problem:
        last = str(problem).strip().splitlines()[-1:] or [""]
        answer({"error": f"{type(problem).__name__}: {last[0][:300]}", "exit_code": 4})


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
