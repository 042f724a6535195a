"""The bench file: YAML in, frozen values out, and every mistake at once with its line and path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from firmware_sim.api import Simulator
from firmware_sim.config_world import check_keys, check_number, check_world, section
from firmware_sim.errors import BenchError
from firmware_sim.faults import WIRE, Fault, parse_fault
from firmware_sim.hosts.tcp import split_address
from firmware_sim.suggest import nearest
from firmware_sim.yaml_file import Mistakes, Where, read_yaml

BENCH_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME = re.compile(r"[a-z][a-z0-9_]*")
LINE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEYS = {"bench", "speed", "links", "seed", "log", "instruments", "positions", "labware", "liquids", "faults"}
_WORLD = ("positions", "labware", "liquids", "seed", "speed")
_CARRIED_BY = {
    "bytes": ("pty", "tcp"),
    "modbus-rtu": ("pty", "tcp"),
    "modbus-tcp": ("tcp",),
    "opcua": ("opc.tcp",),
}
_OWN_FAULTS = {"stuck": "stick", "drift": "drift", "error": "fail"}


@dataclass(frozen=True, slots=True)
class Link:
    """What an instrument hangs on: `kind` is pty, tcp or opc.tcp, `name` the line or `host:port`."""

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class InstrumentConfig:
    """One instrument; `factory` is its simulator's class."""

    name: str
    factory: type[Simulator]
    link: Link
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """A bench file without mistakes in its form. `world` is what `World` is built from."""

    file: str
    name: str = "bench"
    speed: float = 1.0
    seed: int = 0
    links: Path = Path("ports")
    log: Path | None = None
    instruments: tuple[InstrumentConfig, ...] = ()
    faults: tuple[Fault, ...] = ()
    world: Mapping[str, Any] = field(default_factory=dict)


def load_bench(path: Path) -> tuple[BenchConfig, Mistakes]:
    """Read a bench file: what is right in it, and the mistakes. `BenchError` if it cannot be read at all.

    Paths in the file count from the file's own directory.
    """
    data, mistakes = read_yaml(path)
    if not isinstance(data, Mapping):
        raise BenchError(
            f"{path} must be a mapping with `instruments`, as in the bench section of the manual."
        )
    return parse_bench(data, path.resolve().parent, mistakes), mistakes


def parse_bench(data: Mapping[str, Any], base: Path, mistakes: Mistakes) -> BenchConfig:
    """The values of a bench file's content; every mistake is noted in `mistakes`."""
    check_keys((), data, _KEYS, mistakes)
    check_world(data, mistakes)
    name = _text(data, "bench", "bench", mistakes)
    if not BENCH_NAME.fullmatch(name):
        mistakes.add(("bench",), f"{name!r} is no bench name: 1 to 64 letters, digits, _ and -.")
    speed = data.get("speed", 1.0)
    check_number(("speed",), speed, 0.001, 1000, mistakes)
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        mistakes.add(("seed",), f"{seed!r} must be a whole number.")
    instruments = _instruments(section(data, "instruments", mistakes), mistakes)
    log = _text(data, "log", "", mistakes)
    return BenchConfig(
        file=mistakes.file,
        name=name,
        speed=speed,
        seed=seed,
        links=base / _text(data, "links", "ports", mistakes),
        log=base / log if log else None,
        instruments=instruments,
        faults=_faults(data.get("faults"), instruments, mistakes),
        world={key: data[key] for key in _WORLD if key in data},
    )


def _text(data: Mapping[str, Any], key: str, default: str, mistakes: Mistakes) -> str:
    value = data.get(key, default)
    if isinstance(value, str):
        return value
    mistakes.add((key,), f"{value!r} must be text; put it in quotes.")
    return default


def _instruments(entries: Mapping[str, Any], mistakes: Mistakes) -> tuple[InstrumentConfig, ...]:
    if not entries:
        mistakes.add(
            ("instruments",), "a bench needs at least one instrument, as in {red: {model: …, link: pty}}."
        )
    models = {entry.name: entry for entry in entry_points(group="labedge.simulators")}
    found = []
    for name, entry in entries.items():
        instrument = _instrument(name, entry, models, mistakes)
        if instrument is not None:
            found.append(instrument)
    _check_lines(found, mistakes)
    return tuple(found)


def _instrument(
    name: str, entry: Any, models: Mapping[str, Any], mistakes: Mistakes
) -> InstrumentConfig | None:
    where: Where = ("instruments", name)
    before = len(mistakes.found)
    if not NAME.fullmatch(name):
        mistakes.add(where, "a name begins with a small letter and goes on with small letters, digits and _.")
    if not isinstance(entry, Mapping):
        mistakes.add(where, "this must be {model: …, link: …, …}.")
        return None
    model = str(entry.get("model"))
    if model not in models:
        known = ", ".join(sorted(models)) or "none installed"
        mistakes.add((*where, "model"), f"{model!r} is no model{nearest(model, models)}; there are {known}.")
        return None
    factory: type[Simulator] = models[model].load()
    link = _link((*where, "link"), entry.get("link"), mistakes)
    if link is not None and link.kind not in _CARRIED_BY[factory.transport]:
        kinds = " or ".join(_CARRIED_BY[factory.transport])
        mistakes.add((*where, "link"), f"a {model} hangs on {kinds}, not on {link.kind}.")
    options = {str(key): value for key, value in entry.items() if key not in ("model", "link")}
    if factory.option_names is not None:
        check_keys(where, options, factory.option_names, mistakes)
    if link is None or len(mistakes.found) > before:
        return None
    return InstrumentConfig(name, factory, link, options)


def _link(where: Where, value: Any, mistakes: Mistakes) -> Link | None:
    text = value if isinstance(value, str) else ""
    kind, _, rest = text.partition(":")
    try:
        if kind == "pty" and (not rest or LINE_NAME.fullmatch(rest)):
            return Link("pty", rest)
        if kind == "tcp":
            split_address(rest.removeprefix("//"))
            return Link("tcp", rest.removeprefix("//"))
        if text.startswith("opc.tcp://"):
            address = text.removeprefix("opc.tcp://").rstrip("/")
            split_address(address)
            return Link("opc.tcp", address)
    except BenchError as error:
        mistakes.add(where, str(error))
        return None
    mistakes.add(where, f"{value!r} is no link: pty, pty:LINE, tcp:HOST:PORT or opc.tcp://HOST:PORT.")
    return None


def line_key(instrument: InstrumentConfig) -> tuple[str, str]:
    """What instruments on the same line have in common."""
    link = instrument.link
    alone = not link.name or link.name.endswith(":0")
    return (link.kind, f"{instrument.name} alone" if alone else link.name)


def _check_lines(instruments: list[InstrumentConfig], mistakes: Mistakes) -> None:
    names = {instrument.name for instrument in instruments}
    lines: dict[tuple[str, str], list[InstrumentConfig]] = {}
    for instrument in instruments:
        lines.setdefault(line_key(instrument), []).append(instrument)
    for (kind, line), members in lines.items():
        if kind == "pty" and line in names and line not in {member.name for member in members}:
            mistakes.add(
                ("instruments", members[0].name, "link"), f"line {line} has the name of another instrument."
            )
        if len(members) > 1:
            _check_shared(line, members, mistakes)


def _check_shared(line: str, members: list[InstrumentConfig], mistakes: Mistakes) -> None:
    taken: dict[Any, str] = {}
    for member in members:
        where: Where = ("instruments", member.name)
        names = member.factory.option_names or frozenset()
        address = member.options.get("address", 1)
        if "address" not in names or member.factory.transport != members[0].factory.transport:
            mistakes.add(
                (*where, "link"), f"a {member.factory.model} cannot share line {line}; give it its own."
            )
        elif address in taken:
            mistakes.add(
                (*where, "address"), f"{taken[address]} on line {line} already answers to {address}."
            )
        else:
            taken[address] = member.name


def _faults(entries: Any, instruments: tuple[InstrumentConfig, ...], mistakes: Mistakes) -> tuple[Fault, ...]:
    if entries is None:
        return ()
    if not isinstance(entries, list):
        mistakes.add(("faults",), "this must be a list of {instrument: …, kind: …, …}.")
        return ()
    found = []
    for index, entry in enumerate(entries):
        where: Where = ("faults", index)
        if not isinstance(entry, Mapping):
            mistakes.add(where, "this must be {instrument: …, kind: …, …}.")
            continue
        fault, sentences = parse_fault(entry)
        mistakes.extend(where, sentences)
        if fault is not None:
            mistakes.extend(where, misfit(fault, {item.name: item.factory for item in instruments}))
            found.append(fault)
    return tuple(found)


def misfit(fault: Fault, instruments: Mapping[str, type[Simulator]]) -> list[str]:
    """Why this fault cannot befall that instrument, as sentences; [] if it can."""
    factory = instruments.get(fault.instrument)
    if factory is None:
        hint = nearest(fault.instrument, instruments)
        return [f"there is no instrument {fault.instrument!r} on this bench{hint}."]
    if factory.transport == "opcua" and (fault.kind in WIRE or fault.kind == "hang" or fault.after):
        return [f"{fault.instrument} speaks OPC UA, where {fault.kind} cannot be put between messages."]
    method = _OWN_FAULTS.get(fault.kind)
    if method and getattr(factory, method) is getattr(Simulator, method):
        return [f"a {factory.model} cannot suffer {fault.kind}."]
    return []
