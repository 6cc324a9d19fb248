"""What the Android tests share: the Kotlin of android_demo/, compiled once.

Needs java, JUnit and Gson (Debian: default-jdk-headless junit4 libgoogle-gson-java) and the npm
packages of android_demo/tools (`make android-tools`); tests are skipped without them, and fail where
GENEDGE_ANDROID=required.
"""

import os
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "android_demo" / "tools"
OUT = ROOT / "build" / "android"
BUNDLED = ROOT / "runtime" / "artifacts" / "emoji-onnx-int8"


def absent(why):
    if os.environ.get("GENEDGE_ANDROID") == "required":
        pytest.fail(why)
    pytest.skip(why)


def build(*arguments):
    """Runs tools/build.sh; its output."""
    OUT.mkdir(parents=True, exist_ok=True)
    with FileLock(OUT / ".lock"):  # of pytest's workers one compiles
        done = subprocess.run(
            ["bash", str(TOOLS / "build.sh"), *arguments], capture_output=True, text=True
        )
    if done.returncode == 3:
        absent(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compiled_core():
    """Compiles :core and its tests where needed; what starts a class of it on a phone's heap."""
    build("core", str(OUT))
    path = (OUT / "classpath").read_text().strip()
    return ["java", "-Xmx64m", f"-Dgenedge.root={ROOT}", "-cp", path]
