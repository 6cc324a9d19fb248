"""What can be checked of the Android app without an Android SDK."""

import shutil
import subprocess
import sys
from pathlib import Path
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


def test_all_of_the_app_compiles_against_signatures_of_android_and_stubs(core, resources):
    told = build("app", str(OUT)).splitlines()
    compiled = {Path(t.split(": ")[1]).name for t in told if t.startswith("compiled: ")}
    assert compiled == {p.name for p in (APP / "kotlin").rglob("*.kt")}
    assert {"DemoApplication.kt", "ExecuTorch.kt", "OnnxRuntime.kt", "MainActivity.kt"} <= compiled


def test_a_member_that_a_runtime_lacks_is_noticed(core, resources, tmp_path):
    sources = tmp_path / "sources"
    shutil.copytree(APP / "kotlin" / "genedge" / "demo", sources)
    for name, member, other in (
        ("ExecuTorch.kt", "module.forward(", "module.backward("),
        ("OnnxRuntime.kt", "createSession(file.path,", "createSession(file.length(),"),
    ):
        text = (sources / name).read_text()
        assert member in text
        (sources / name).write_text(text.replace(member, other))
    done = subprocess.run(
        ["bash", str(TOOLS / "build.sh"), "app", str(OUT), str(sources)],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "backward" in done.stderr
    assert "createSession" in done.stderr


def test_the_stubs_say_what_they_are_and_no_build_of_the_app_sees_them():
    stubs = sorted((TOOLS / "runtimes").rglob("*.java"))
    assert len(stubs) >= 10
    assert all("/** A stub: see " in p.read_text() for p in stubs)
    gradle = [p.read_text() for p in (ROOT / "android_demo").glob("**/*.gradle.kts")]
    assert len(gradle) == 4
    assert not any("tools" in text for text in gradle)


def test_gradle_names_versions_of_the_catalog_alone():
    """No Gradle is here; what its files take from the version catalog is there, and nothing else."""
    import re
    import tomllib

    demo = ROOT / "android_demo"
    catalog = tomllib.loads((demo / "gradle" / "libs.versions.toml").read_text())
    named = {v["version"]["ref"] for k in ("libraries", "plugins") for v in catalog[k].values()}
    assert named == set(catalog["versions"])
    used = set()
    for path in demo.glob("**/*.gradle.kts"):
        text = path.read_text()
        used |= set(re.findall(r"\blibs\.([a-z.]+[a-z])", text))
        assert not re.search(r"""["'][\w.-]+:[\w.-]+:\d""", text), path  # versions past the catalog
        for pair in ("{}", "()"):
            assert text.count(pair[0]) == text.count(pair[1]), path
    known = {k.replace("-", ".") for k in catalog["libraries"]}
    known |= {f"plugins.{k.replace('-', '.')}" for k in catalog["plugins"]}
    assert used == known
    settings = (demo / "settings.gradle.kts").read_text()
    assert 'include(":core", ":app")' in settings
    wrapper = (demo / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text()
    assert re.search(
        r"distributionUrl=https\\://services\.gradle\.org/distributions/gradle-[\d.]+-bin\.zip",
        wrapper,
    )


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
