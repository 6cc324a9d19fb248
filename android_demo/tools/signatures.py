"""Java signatures of Android, to compile :app against where there is no Android SDK.

The npm package @nativescript/types-android lists every public class of android.jar with the API
level of each member. This writes Java sources of the classes that :app names and of those that their
signatures name, so that the Kotlin compiler can check each call: that the member exists on Android
8.0 (API 26), with this number of arguments and these types.

The listing says `number` for Java's six kinds of numbers and `string` for CharSequence too. So a
number is int here, unless NUMBERS says otherwise, and CharSequence is String. Nothing here runs.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

LEVEL = 26
NUMBERS = {("onItemSelected", 3): "long"}  # (method, which parameter): its kind where it is not int
GENERIC = {"findViewById": "<T extends android.view.View> T"}  # results that the caller chooses
VARARGS = {"getString"}
INTERFACES = {"android.net.Uri": ["android.os.Parcelable"]}  # that the listing leaves out
PLAIN = {"number": "int", "string": "String", "boolean": "boolean", "void": "void", "any": "Object"}
KEYWORDS = {"default", "int", "long", "float", "double", "short", "byte", "char"}


@dataclass
class Class:
    """What the listing says of one class: `members` are (line, API level)."""

    name: str
    parameters: str
    bases: list[str]
    abstract: bool
    since: int
    interface: bool = False
    members: list[tuple[str, int]] = field(default_factory=list)


def read(path: Path) -> dict[str, Class]:
    """Every class of the listing, by its full name with dots."""
    classes: dict[str, Class] = {}
    stack: list[tuple[str, Class | None]] = []
    since, implementation = 1, False
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if implementation:
            implementation = not line.startswith("})")
            continue
        if line.startswith(("/**", "*")):
            level = re.search(r"@since (\d+)", line)
            since = int(level[1]) if level else since
            continue
        module = re.fullmatch(r"(?:declare|export) module (\w+) \{", line)
        opened = re.match(r"export (abstract )?class (\w+)(<[^>]*>)?\s*(.*)\{", line)
        if module:
            stack.append((module[1], None))
        elif opened:
            name = ".".join([s[0] for s in stack] + [opened[2]])
            bases = re.sub(r"<[^{]*?>+", "", opened[4]).replace("implements", ",")
            names = [b.strip() for b in bases.replace("extends", "").split(",") if b.strip()]
            parameters = re.sub(r" extends [^,>]+", "", opened[3] or "")
            names += INTERFACES.get(name, [])
            one = Class(name, parameters, names, bool(opened[1]), since)
            classes[name] = one
            stack.append((opened[2], one))
        elif line == "}":
            stack.pop()
        elif stack and stack[-1][1] is not None:
            if "constructor(implementation: {" in line:
                stack[-1][1].interface = implementation = True
            else:
                stack[-1][1].members.append((line, since))
        since = 1
    return classes


def split(text: str) -> list[str]:
    """Parts between commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += c in "<({"
        depth -= c in ">)}"
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [p.strip() for p in [*parts, text[start:]] if p.strip()]


def java(kind: str, known: dict[str, Class], own: str) -> str | None:
    """The type in Java, without its arguments; None where it is not among the classes here."""
    kind = kind.removesuffix("| null").strip()
    array = re.fullmatch(r"androidNative\.Array<(.*)>", kind)
    if array:
        inner = java(array[1], known, own)
        return None if inner is None else f"{inner}[]"
    if kind in PLAIN:
        return PLAIN[kind]
    if kind in own.strip("<>").split(",") and kind:
        return "Object"
    name = re.sub(r"<.*", "", kind)
    return name if name.startswith("java.") or name in known else None


def types(member: str) -> set[str]:
    return set(re.findall(r"android(?:\.\w+)+", member))


def method(
    line: str, one: Class, known: dict[str, Class]
) -> tuple[str, str, str, list[str]] | None:
    """(name, what is before it, result, parameters) of one member; None where a type is unknown."""
    found = re.fullmatch(r"public (static )?(\w+)(?:<[^(]*>)?\((.*)\)(?:: (.*))?;", line)
    if not found:
        return None
    static, name, inside, result = found[1] or "", found[2], found[3], found[4] or ""
    parameters, types_only = [], []
    for i, part in enumerate(split(inside)):
        label, _, kind = part.partition(":")
        told = java(kind.strip(), known, one.parameters)
        if told is None:
            return None
        told = NUMBERS.get((name, i), told)
        null = "@org.jetbrains.annotations.Nullable " if kind.endswith("| null") else ""
        label = label.strip().rstrip("_?")
        parameters.append(f"{null}{told} {label}{i if label in KEYWORDS else ''}")
        types_only.append(told)
    if name in VARARGS and types_only and types_only[-1] == "Object[]":
        parameters[-1] = parameters[-1].replace("Object[]", "Object...")
    if name == "constructor":
        return name, "", "", parameters
    told = java(result, known, one.parameters)
    if told is None:
        return None
    null = "@org.jetbrains.annotations.Nullable " if result.endswith("| null") else ""
    return name, static, GENERIC.get(name, null + told), parameters


def constant(line: str, known: dict[str, Class]) -> str | None:
    found = re.fullmatch(r"public (static )?(\w+): (.*);", line)
    if not found or found[2] == "class":
        return None
    static, name, kind = found[1], found[2], found[3]
    before = "public static final" if static else "public"
    if kind.startswith('"'):
        return f"{before} String {name} = {kind};"
    if re.fullmatch(r"-?\d+", kind):
        wide = abs(int(kind)) > 2**31
        return f"{before} {'long' if wide else 'int'} {name} = {kind}{'L' if wide else ''};"
    told = java(kind, known, "")
    return None if told is None else f"{before} {told} {name};"


def bodies(one: Class, known: dict[str, Class]) -> list[str]:
    """The members in Java: methods up to LEVEL, fields of every level (they are copied when compiled)."""
    fields, methods = [], {}
    for line, since in one.members:
        text = constant(line, known)
        if text is not None:
            fields.append(text)
            continue
        told = method(line, one, known) if since <= LEVEL else None
        if told is None:
            continue
        name, static, result, parameters = told
        kinds = tuple(re.sub(r"@\S+ ", "", p).rsplit(" ", 1)[0] for p in parameters)
        before = methods.get((name, kinds))
        if before is None or " Object " in before:
            joined = ", ".join(parameters)
            if name == "constructor":
                if not one.interface:
                    methods[name, kinds] = f"public {one.name.rsplit('.', 1)[1]}({joined}) {{}}"
                continue
            unnamed = one.interface or (one.abstract and "param0" in joined)
            how = "abstract" if unnamed and not static else "native"
            methods[name, kinds] = f"public {static}{how} {result} {name}({joined});"
    # What the compiler made for generic supertypes takes Object where another takes the type itself.
    bridges = {
        key
        for key in methods
        for other in methods
        if key != other
        and key[0] == other[0]
        and len(key[1]) == len(other[1])
        and all(a in (b, "Object") for a, b in zip(key[1], other[1], strict=True))
    }
    return fields + [text for key, text in methods.items() if key not in bridges]


def write(one: Class, known: dict[str, Class], depth: int) -> list[str]:
    """Java source of a class and of the classes inside it."""
    bases = [b for b in one.bases if b in known]
    parents = [b for b in bases if not known[b].interface]
    interfaces = [b for b in bases if known[b].interface]
    kind = "interface" if one.interface else "class"
    head = f"public {'static ' if depth else ''}{'abstract ' if one.abstract else ''}{kind} "
    head += one.name.rsplit(".", 1)[1] + one.parameters
    if one.interface:
        head += " extends " + ", ".join(interfaces) if interfaces else ""
    else:
        head += f" extends {parents[0]}" if parents else ""
        head += " implements " + ", ".join(interfaces) if interfaces else ""
    lines = [head + " {"]
    lines += ["    " + text for text in bodies(one, known)]
    for other in known.values():
        if other.name.rpartition(".")[0] == one.name:
            lines += ["    " + text for text in write(other, known, depth + 1)]
    return [*lines, "}"]


def closure(start: set[str], classes: dict[str, Class]) -> dict[str, Class]:
    """The classes named, their bases and enclosing classes, and what the signatures of these name."""
    found: set[str] = set()

    def add(name: str) -> None:
        while name and name not in classes:
            name = name.rpartition(".")[0]
        if not name or name in found:
            return
        found.add(name)
        for other in [*classes[name].bases, name.rpartition(".")[0]]:
            add(other)

    for name in start:
        add(name)
        for inner in classes:
            if inner.startswith(f"{name}."):
                add(inner)
    for _ in range(2):
        for name in list(found):
            for line, since in classes[name].members:
                if since <= LEVEL and "(" in line:
                    for kind in types(line):
                        add(kind)
    return {name: classes[name] for name in classes if name in found}


def main(listing: Path, sources: Path, out: Path) -> None:
    classes = read(listing)
    used = set()
    for source in sources.glob("*.kt"):
        used |= types(source.read_text())
    known = closure(used, classes)
    for one in known.values():
        package = one.name.rpartition(".")[0]
        if package in known:
            continue
        folder = out / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join([f"package {package};", *write(one, known, 0)])
        (folder / f"{one.name.rpartition('.')[2]}.java").write_text(text + "\n")
    print(f"{len(known)} classes of Android, API {LEVEL}")


if __name__ == "__main__":
    main(*(Path(a) for a in sys.argv[1:]))
