"""Artifacts of the tiny generator, exported once for all tests."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("genedge", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("genedge")


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
    from genedge.toolkit.export import export

    out = tmp_path_factory.mktemp("artifacts")
    done = {}
    for precision in ("fp32", "fp16", "int8"):
        targets = [t for t in TARGETS if (t, precision) != ("executorch", "fp16")]
        for one in export(generator, targets, precision=precision, out=out, limits=loose):
            target = one.directory.name.split("-")[1]
            done[target, precision] = one.directory
    return done


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
