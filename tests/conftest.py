"""Artifacts of the tiny generator, exported once for all tests and all of pytest's workers."""

import os
import sys
from pathlib import Path

# Two workers of two threads each on two cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("genedge", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("genedge")

# Begun first, so that no worker is left alone with one of them at the end; each takes a minute or more.
LONG = (
    "test_pipeline",
    "test_emoji",
    "test_blame",
    "test_android",
    "test_export",
    "test_adopt",
    "test_tune",
)


def pytest_collection_modifyitems(items):
    order = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def once(tmp_path_factory, name, make):
    """The folder `name` that `make(folder)` filled, in this worker or in another one."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / name / "made").exists():
            make(root / name)
            (root / name / "made").touch()
    return root / name


@pytest.fixture(scope="session")
def generator():
    from tiny import tiny

    return tiny()


@pytest.fixture(scope="session")
def loose():
    """Limits that a generator without training holds; the strict ones are for trained ones."""
    from genedge.runtime.verify import Limits

    return Limits(psnr=30, ssim=0.9, flat=0.8, signed=2, lead=-100)


@pytest.fixture(scope="session")
def artifacts(generator, loose, tmp_path_factory):
    """(target, precision) → folder, for every pair that there is."""
    from genedge.runtime.artifact import TARGETS

    pairs = [(t, p) for p in ("fp32", "fp16", "int8") for t in TARGETS]
    pairs.remove(("executorch", "fp16"))

    def make(out):
        from genedge.toolkit.export import export

        for precision in ("fp32", "fp16", "int8"):
            targets = [t for t, p in pairs if p == precision]
            export(generator, targets, precision=precision, out=out, limits=loose)

    out = once(tmp_path_factory, "artifacts", make)
    return {(t, p): out / f"{generator.name}-{t}-{p}" for t, p in pairs}


@pytest.fixture(scope="session")
def core():
    """The command that starts a class of android_demo's :core; skips where Kotlin is missing."""
    from kotlin import compiled_core

    return compiled_core()


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """kind → the directory of a tiny diffusers pipeline, made when it is first asked for."""
    pytest.importorskip("diffusers")
    from pipelines import KINDS

    folder, done = tmp_path_factory.mktemp("pipelines"), {}

    def of(kind):
        if kind not in done:
            KINDS[kind]().save_pretrained(folder / kind)
            done[kind] = folder / kind
        return done[kind]

    return of


@pytest.fixture(scope="session")
def sampled(saved, tmp_path_factory):
    """(kind, target, precision) → the artifact's folder, exported when it is first asked for."""
    from pipelines import WALKS

    from genedge.runtime.verify import Limits
    from genedge.toolkit.export import export
    from genedge.toolkit.pipeline import load_pipeline

    out, done = tmp_path_factory.mktemp("sampled"), {}
    loose = Limits(psnr=10, ssim=0.1, flat=0, signed=60)

    def of(kind, target, precision="fp32"):
        key = kind, target, precision
        if key not in done:
            limits = loose if precision == "int8" else None
            generator = load_pipeline(saved(kind), **WALKS[kind])
            # Two targets at once share the programs and the golden pictures.
            targets = [target] if target == "executorch" else ["onnx", "openvino"]
            every = export(generator, targets, precision=precision, out=out, limits=limits)
            done.update(
                ((kind, t, precision), d.directory) for t, d in zip(targets, every, strict=True)
            )
        return done[key]

    return of
