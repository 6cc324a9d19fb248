"""What can be checked of the Android app without an Android SDK."""

import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from kotlin import BUNDLED, OUT, ROOT, TOOLS, build

from genedge.runtime.errors import BadInput

APP = ROOT / "android_demo" / "app" / "src" / "main"
ANDROID = "{http://schemas.android.com/apk/res/android}"
TOOL = "{http://schemas.android.com/tools}"


@pytest.fixture(scope="session")
def resources():
    """Compiles the manifest and the resources with aapt; gives what the package then says."""
    build("check")
    build("resources", str(OUT))
    return OUT


def dump(what, out):
    command = ["aapt", "dump", what, str(out / "app.apk")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_manifest_and_resources_are_valid_and_ask_for_nothing(resources):
    badging = dump("badging", resources)
    assert "sdkVersion:'26'" in badging
    assert "launchable-activity: name='genedge.demo.MainActivity'" in badging
    assert "uses-permission" not in dump("permissions", resources)
    manifest = ElementTree.parse(APP / "AndroidManifest.xml").getroot()
    asked = manifest.findall("uses-permission")
    assert asked
    assert all(p.get(f"{TOOL}node") == "remove" for p in asked)
    providers = list(manifest.iter("provider"))
    assert [p.get(f"{ANDROID}exported") for p in providers] == ["false"]


def test_a_broken_resource_is_noticed(resources, tmp_path):
    demo = tmp_path / "android_demo"
    shutil.copytree(APP, demo / "app" / "src" / "main")
    shutil.copytree(TOOLS, demo / "tools", ignore=shutil.ignore_patterns("node_modules"))
    (demo / "tools" / "node_modules").symlink_to(TOOLS / "node_modules")
    layout = demo / "app" / "src" / "main" / "res" / "layout" / "main.xml"
    layout.write_text(layout.read_text().replace("@string/draw", "@string/drew"))
    done = subprocess.run(
        ["bash", str(demo / "tools" / "build.sh"), "resources", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "drew" in done.stderr


def test_xml_is_well_formed():
    if shutil.which("xmllint") is None:
        pytest.skip("android: no xmllint; install it (Debian: libxml2-utils)")
    files = sorted(APP.rglob("*.xml"))
    assert len(files) >= 8
    subprocess.run(["xmllint", "--noout", *map(str, files)], check=True)


def test_every_control_has_a_label():
    labelled = set()
    controls = []
    for path in (APP / "res" / "layout").glob("*.xml"):
        for view in ElementTree.parse(path).iter():
            labelled.add((view.get(f"{ANDROID}labelFor") or "").rpartition("/")[2])
            if view.tag in (
                "EditText",
                "Spinner",
                "ImageView",
                "ProgressBar",
                "GridLayout",
                "Button",
            ):
                controls.append(view)
    assert len(controls) >= 14
    for view in controls:
        name = view.get(f"{ANDROID}id").rpartition("/")[2]
        told = view.get(f"{ANDROID}contentDescription") or view.get(f"{ANDROID}text")
        assert told or name in labelled, name


def test_both_themes_name_the_same_things():
    day, night = (
        {e.get("name") for e in ElementTree.parse(APP / "res" / folder / "colors.xml").getroot()}
        for folder in ("values", "values-night")
    )
    assert day == night


def test_the_app_compiles_against_the_signatures_of_android(core, resources):
    told = build("app", str(OUT)).splitlines()
    compiled = {line.split(": ")[1] for line in told if line.startswith("compiled: ")}
    all_of_them = {p.name for p in (APP / "kotlin").rglob("*.kt")}
    assert all_of_them - compiled == {"DemoApplication.kt", "ExecuTorch.kt", "OnnxRuntime.kt"}


def test_the_listing_in_the_docs_is_the_one_that_is_compiled():
    text = (ROOT / "docs" / "embed.md").read_text()
    listing = text.split("```kotlin\n")[1].split("```")[0]
    example = ROOT / "android_demo" / "core" / "src" / "test" / "kotlin" / "example" / "Embed.kt"
    assert listing == example.read_text()


def test_assets_are_whole_or_as_they_were(tmp_path):
    sys.path.insert(0, str(TOOLS))
    try:
        import assets
    finally:
        sys.path.remove(str(TOOLS))
    out = tmp_path / "assets" / "artifacts"
    done = assets.assemble([BUNDLED], out)
    assert [a.directory for a in done] == [out / BUNDLED.name]
    assert f"{done[0].bytes / 1e6:.2f} MB" in assets.sizes(done).splitlines()[-1]
    damaged = tmp_path / "damaged"
    shutil.copytree(BUNDLED, damaged)
    (damaged / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        assets.assemble([damaged], out)
    assert [p.name for p in out.parent.iterdir()] == ["artifacts"]
    assert [p.name for p in out.iterdir()] == [BUNDLED.name]
