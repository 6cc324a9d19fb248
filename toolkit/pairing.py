"""Which input or output of a file is which of the reference's: by name, by shape, or by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genedge.runtime.errors import BadInput
from genedge.runtime.interface import Port

Spec = tuple[str, tuple[int, ...]]


def _shown(spec: Spec) -> str:
    return f"{spec[0]} {list(spec[1])}"


def _same(port: Port, spec: Spec) -> bool:
    return port.dtype == spec[0] and port.fits(spec[1])


def check(file: str, side: str, name: str, port: Port, spec: Spec) -> None:
    """Raises BadInput where dtype or shape is another than the reference's."""
    dtype, shape = spec
    if port.dtype != dtype:
        raise BadInput(
            f"{file}: {side} {name} is {port.dtype}, the reference's is {dtype}; "
            f"export it with {dtype}"
        )
    if port.fits(shape):
        return
    if len(shape) == 4 and port.fits((shape[0], *shape[2:], shape[1])):
        raise BadInput(
            f"{file}: {side} {name} has its channels last ({port}), the reference's come first "
            f"({_shown(spec)}); transpose it inside the graph"
        )
    raise BadInput(
        f"{file}: {side} {name} is {port}, the reference's is {_shown(spec)}; "
        f"export it with that shape"
    )


def pair(
    file: str,
    side: str,
    ports: Sequence[Port],
    wanted: Mapping[str, Spec],
    rename: Mapping[str, str],
) -> list[tuple[str, Port]]:
    """(the reference's name, the port) for each port of a file, in the file's order.

    side: "input" or "output". rename: {the file's name: the reference's}. Names that agree pair
    first. What is left pairs in order where the format has no names and all fit, else where dtype
    and shape leave one way. Outputs that the reference does not know are left out. Raises BadInput
    where a pair differs in dtype or shape, an input belongs to nothing, or an output is missing.
    An input of the reference that has no port is the caller's to judge.
    """
    for theirs, ours in rename.items():
        if ours in wanted and theirs not in [p.name for p in ports]:
            names = ", ".join(p.name for p in ports)
            raise BadInput(f"{file} has no {side} {theirs!r} to rename; it has: {names}")
    found: dict[int, str] = {}
    for i, port in enumerate(ports):
        name = rename.get(port.name, port.name)
        if name in wanted:
            check(file, side, name, port, wanted[name])
            found[i] = name
    left = [n for n in wanted if n not in found.values()]
    open_ports = [i for i in range(len(ports)) if i not in found]
    in_order = len(open_ports) == len(left) and not any(ports[i].name for i in open_ports)
    if in_order and all(_same(ports[i], wanted[n]) for i, n in zip(open_ports, left, strict=True)):
        found |= dict(zip(open_ports, left, strict=True))
        left, open_ports = [], []
    for i in open_ports:
        fitting = [n for n in left if _same(ports[i], wanted[n])]
        rivals = [k for k in open_ports if fitting and _same(ports[k], wanted[fitting[0]])]
        if len(fitting) == 1 and rivals == [i]:
            found[i] = fitting[0]
    left = [n for n in left if n not in found.values()]
    open_ports = [i for i in open_ports if i not in found]
    if len(open_ports) == len(left) and (len(left) == 1 or in_order):  # say how they differ
        for i, name in zip(open_ports, left, strict=True):
            what = f"{name} ({ports[i].name} in the file)" if ports[i].name else name
            check(file, side, what, ports[i], wanted[name])
    if open_ports and side == "input":
        port = ports[open_ports[0]]
        known = ", ".join(f"{n} ({_shown(wanted[n])})" for n in left or wanted)
        word = "may be any of" if left else "is none of"
        raise BadInput(
            f"{file}: input {port.name or open_ports[0] + 1} ({port}) {word} the reference's: "
            f"{known}; say which with --rename {port.name or 'THEIRS'}=OURS"
        )
    if left and side == "output":
        gives = ", ".join(f"{p.name or 'unnamed'} ({p})" for p in ports)
        raise BadInput(
            f"{file}: the reference's output {left[0]} ({_shown(wanted[left[0]])}) is missing; "
            f"the file gives {gives}"
        )
    return [(found[i], ports[i]) for i in sorted(found)]
