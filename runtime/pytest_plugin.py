"""The pytest fixture `genedge_artifact`: an app's own tests hold an artifact to limits.

pytest finds this module by its entry point in every test run of the environment, so it imports
nothing until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .run import Pipeline


@dataclass(frozen=True)
class Held:
    """An artifact that held its limits. figures: by metric, as docs/verify.md lists them; model:
    loaded, see docs/library.md."""

    directory: Path
    figures: Mapping[str, float | str]
    model: Pipeline


@pytest.fixture(scope="session")
def genedge_artifact(pytestconfig: pytest.Config) -> Iterator[Callable[..., Held]]:
    """A function (path, *, budget, min_psnr, min_ssim, max_bytes, max_latency, prompts, threads) →
    Held.

    path: a folder, from pytest's root folder on, or a bundled name. budget: a genedge.toml, from
    there on too; the other limits win over it, and what nobody sets is the precision's own. The
    test fails, with a line for each limit that was missed, or where the artifact can not be run.
    An artifact is measured once in a session for the same limits.
    """
    made: dict[tuple[object, ...], Held] = {}

    def hold(
        path: str | Path,
        *,
        budget: str | Path | None = None,
        min_psnr: float | None = None,
        min_ssim: float | None = None,
        max_bytes: int | None = None,
        max_latency: float | None = None,
        prompts: int | None = None,
        threads: int = 1,
    ) -> Held:
        __tracebackhide__ = True
        wanted = (min_psnr, min_ssim, max_bytes, max_latency)
        key = (str(path), str(budget), *wanted, prompts, threads)
        if key not in made:
            made[key] = _held(pytestconfig.rootpath, path, budget, wanted, prompts, threads)
        return made[key]

    yield hold
    for held in made.values():
        held.model.close()


def _held(
    root: Path,
    path: str | Path,
    budget: str | Path | None,
    wanted: tuple[float | None, float | None, int | None, float | None],
    prompts: int | None,
    threads: int,
) -> Held:
    __tracebackhide__ = True
    from .budget import read_budget
    from .bundled import artifact_path
    from .errors import GenedgeError
    from .run import load
    from .verdict import Limits
    from .verify import verify

    psnr, ssim, size, latency = wanted
    limits = Limits(psnr=psnr, ssim=ssim, bytes=size, latency=latency)
    try:
        folder = root / path if (root / path).is_dir() else artifact_path(str(path))
        held_to = read_budget(root / budget) if budget is not None else None
        report = verify([folder], prompts=prompts, threads=threads, limits=limits, budget=held_to)
        if report.failed:
            lines = [
                f"{r.metric} is {r.value}; limit {r.limit or 'none'}{r.note and f' ({r.note})'}"
                for r in report.failed
            ]
            pytest.fail("\n".join([f"{path} misses its limits", *lines]), pytrace=False)
        return Held(folder, {r.metric: r.value for r in report.rows}, load(folder, threads))
    except GenedgeError as problem:
        pytest.fail(f"{path}: {problem}", pytrace=False)
