"""What the parts of a cell file say of each other: names that have to exist, places, ports, volumes.

Works on what is right so far; a name whose own entry is wrong is not complained about a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drivers.api import FixedWell, LineUse, OverPosition
from drivers.errors import DriverError
from edge.cell import DeviceConfig, InterlockConfig, LabwareConfig, PositionConfig
from edge.convert import nearest, sentence
from edge.plan.cellmodel import field_kinds
from edge.plan.expression import ExpressionError, parse
from edge.plan.geometry import frame_problem
from edge.plan.labware import column_row, last_well, parse_well
from edge.yamlfile import Document, child
from protocols.errors import WireError
from protocols.links import open_stream, same_port

_SCHEMES = {"opcua": ("opc.tcp", "opc.tcp://10.0.0.9:4840"), "modbus-tcp": ("tcp", "tcp://10.0.0.5:502")}
"""Framing -> the only scheme that carries it, and an example; other framings go over any stream of bytes."""
_ADDRESSES = ("address", "unit", "device")
"""Options that tell devices on one port apart."""
_RESERVED = {"and", "or", "not", "true", "false", "min", "max", "abs", "round", "len"}


@dataclass
class Parts:
    """What of a cell file is right in itself."""

    devices: Mapping[str, DeviceConfig]
    positions: Mapping[str, PositionConfig]
    labware: Mapping[str, LabwareConfig]
    interlocks: Sequence[InterlockConfig]


def crosscheck(document: Document, parts: Parts) -> None:
    """Note every mistake between the parts in `document`."""
    check = _Check(document, parts)
    check.check_positions()
    check.check_labware()
    check.check_devices()
    check.check_ports()
    check.check_interlocks()


class _Check:
    def __init__(self, document: Document, parts: Parts) -> None:
        self.document = document
        self.parts = parts
        self.wrong = document.wrong

    def names(self, section: str) -> list[str]:
        """Every name that a section declares, wrong entries included."""
        entries = self.document.data.get(section)
        return [str(name) for name in entries] if isinstance(entries, dict) else []

    def check_positions(self) -> None:
        for name, spot in self.parts.positions.items():
            path = f"positions.{name}"
            if spot.frame is not None:
                if problem := frame_problem(spot.frame):
                    self.wrong(
                        f"{path}.frame",
                        problem,
                        "Teach it again: A1, further along the row, further along the column",
                    )
                if spot.at is not None:
                    self.wrong(
                        f"{path}.at",
                        "A position is taught (`frame`) or above another (`at`), not both",
                        "Delete one",
                    )
            if spot.at is not None:
                self._check_nozzle(name, spot.at, f"{path}.at")
            if spot.well is not None:
                self._check_nozzle_well(spot, f"{path}.well")

    def _check_nozzle(self, name: str, at: str, path: str) -> None:
        if not self._exists("positions", at, path):
            return
        below = self.parts.positions.get(at)
        if at == name:
            self.wrong(path, f"{name} is above itself", "Name the nest it is above")
        elif below is not None and below.at is not None:
            self.wrong(path, f"{at} is itself above {below.at}, and not a nest", "Name the nest below")

    def _check_nozzle_well(self, spot: PositionConfig, path: str) -> None:
        if spot.at is None:
            self.wrong(
                path,
                "`well` says where above a nest a nozzle is, and `at` is missing",
                "Add `at:`, or delete `well`",
            )
            return
        seated = [ware for ware in self.parts.labware.values() if ware.at == spot.at]
        kinds = {ware.type for ware in seated or self.parts.labware.values()}
        if kinds and not any(column_row(kind, spot.well or "A1") for kind in kinds):
            self.wrong(path, f"No labware that can stand there has a well {spot.well}", _extent(kinds))

    def check_labware(self) -> None:
        there: dict[str, str] = {}
        for name, ware in self.parts.labware.items():
            path = f"labware.{name}"
            if ware.at is not None and self._exists("positions", ware.at, f"{path}.at"):
                spot = self.parts.positions.get(ware.at)
                if spot is not None and spot.at is not None:
                    self.wrong(
                        f"{path}.at", f"{ware.at} is a nozzle above {spot.at}", f"Write `at: {spot.at}`"
                    )
                if ware.at in there:
                    self.wrong(
                        f"{path}.at",
                        f"{there[ware.at]} already stands at {ware.at}",
                        "Give it another position",
                    )
                there.setdefault(ware.at, name)
            for well, liquids in ware.contents.items():
                self._check_contents(f"{path}.contents.{well}", ware, well, sum(liquids.values()))

    def _check_contents(self, path: str, ware: LabwareConfig, well: str, volume_ul: float) -> None:
        if column_row(ware.type, well) is None:
            self.wrong(path, f"{ware.type} has no well {well}", _extent([ware.type]))
        elif volume_ul > ware.well_capacity_ul:
            message = f"{volume_ul:g} µl are in a well that takes {ware.well_capacity_ul:g} µl"
            self.wrong(path, message, "Correct the volume, or `well_capacity_ul`")

    def check_devices(self) -> None:
        for name in self.names("devices"):
            if name in _RESERVED:
                self.wrong(
                    f"devices.{name}", f"`{name}` is a word of the expression language", "Choose another name"
                )
        for name, device in self.parts.devices.items():
            path = f"devices.{name}"
            for outlet in device.device.outlets(device.options):
                match outlet:
                    case FixedWell(well=well):
                        self._check_well(well, self._find(path, well))
                    case OverPosition(position=position):
                        self._exists("positions", position, self._find(path, position))
            seen = device.device.sees(device.options)
            for position in (*([seen] if seen else ()), *(device.device.reaches(device.options) or ())):
                self._exists("positions", position, self._find(path, position))

    def _check_well(self, well: str, path: str) -> None:
        found = parse_well(well)
        if found is None:
            self.wrong(path, f"`{well}` is not a well", "Write it as labware/A1")
            return
        if not self._exists("labware", found[0], path):
            return
        ware = self.parts.labware.get(found[0])
        if ware is not None and column_row(ware.type, found[1]) is None:
            message = f"{found[0]} is of type {ware.type} and has no well {found[1]}"
            self.wrong(path, message, _extent([ware.type]))

    def check_ports(self) -> None:
        lines: dict[str, LineUse] = {}
        for name, device in self.parts.devices.items():
            use = self._line(name, device)
            if use is None:
                continue
            port = device.options.port
            others = [other for other in lines if same_port(port, self.parts.devices[other].options.port)]
            for other in others:
                if self._conflicts(other, name, lines[other], use):
                    break
            lines[name] = use

    def _line(self, name: str, device: DeviceConfig) -> LineUse | None:
        path, port = f"devices.{name}.port", device.options.port
        scheme = port.partition("://")[0] if "://" in port else ""
        try:
            use = device.device.line(device.options)
            wanted, example = _SCHEMES.get(use.framing, (scheme, ""))
            if scheme != wanted:
                self.wrong(path, f"{device.driver} does not go through {port}", f"Write it as {example}")
                return None
            if use.framing != "opcua":
                open_stream(port, use.settings)
        except (DriverError, WireError, ValueError) as error:
            self.wrong(path, str(error))
            return None
        return use

    def _conflicts(self, first: str, second: str, one: LineUse, other: LineUse) -> bool:
        """Whether two devices cannot share their port; if so, it is noted at the second."""
        mend = "Give one of them its own port"
        if one.framing != other.framing:
            message = f"{first} speaks {one.framing} on this port, and {second} {other.framing}"
        elif one.settings != other.settings:
            message = f"{first} sets this port to {one.settings}, and {second} to {other.settings}"
            mend = "Set both alike, or give one of them its own port"
        elif (address := self._address(first)) != self._address(second):
            return False
        elif shown := ", ".join(str(part) for part in address if part is not None):
            message, mend = f"{first} already has address {shown} on this port", "Give it another address"
        else:
            message = f"{first} is already on this port, and neither has an address"
        self.wrong(f"devices.{second}.port", message, mend)
        return True

    def _address(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(self.parts.devices[name].options, option, None) for option in _ADDRESSES)

    def check_interlocks(self) -> None:
        names: set[str] = set()
        for lock in self.parts.interlocks:
            path = self._interlock_path(lock)
            if lock.name in names:
                self.wrong(f"{path}.name", f"There are two interlocks {lock.name}", "Rename one of them")
            names.add(lock.name)
            self._check_condition(lock.when, f"{path}.when")

    def _interlock_path(self, lock: InterlockConfig) -> str:
        """Where it stands in the file: numbers shift when a wrong interlock was left out."""
        entries = self.document.data["interlocks"]
        numbers = [
            number
            for number, entry in enumerate(entries)
            if isinstance(entry, dict) and entry.get("name") == lock.name and entry.get("when") == lock.when
        ]
        return f"interlocks[{numbers[-1]}]"

    def _check_condition(self, text: str, path: str) -> None:
        try:
            expression = parse(text)
        except ExpressionError as error:
            self.wrong(path, sentence(str(error)))
            return
        kinds: dict[str, str] = {}
        for name in sorted(expression.names()):
            if not self._check_reading(name, path, kinds):
                return
        try:
            result = expression.kind(kinds)
        except ExpressionError as error:
            self.wrong(path, sentence(str(error)))
            return
        if result not in (None, "boolean"):
            self.wrong(
                path,
                f"The condition gives a {result}, not true or false",
                "Compare it, as `oven.temperature_c > 60`",
            )

    def _check_reading(self, name: str, path: str, kinds: dict[str, str]) -> bool:
        device, dot, field = name.partition(".")
        if not dot:
            self.wrong(path, f"`{name}` is not a reading", "Write device.field, as `oven.temperature_c`")
            return False
        if not self._exists("devices", device, path) or device not in self.parts.devices:
            return False
        fields = field_kinds(self.parts.devices[device].device.Readings)
        if field not in fields:
            self.wrong(path, f"{device} has no reading {field}", nearest(field, list(fields), "readings"))
            return False
        kinds[name] = fields[field]
        return True

    def _exists(self, section: str, name: str, path: str) -> bool:
        """Whether a section declares a name; if not, it is noted at `path`."""
        names = self.names(section)
        if name in names:
            return True
        one = {"devices": "device", "positions": "position", "labware": "labware"}[section]
        self.wrong(path, f"There is no {one} {name}", nearest(name, names, section))
        return False

    def _find(self, path: str, text: str) -> str:
        """Where in a device's entry a text stands."""
        entry = self.document.data["devices"][path.removeprefix("devices.")]
        return next(_places(entry, text, path), path)


def _places(data: Any, text: str, path: str) -> Iterator[str]:
    if data == text:
        yield path
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _places(value, text, child(path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _places(value, text, f"{path}[{number}]")


def _extent(kinds: Iterable[str]) -> str:
    """Which wells the types have."""
    wells = ((kind, last_well(kind)) for kind in sorted(kinds))
    return ", ".join(
        f"{kind} has A1 to {last}" if last != "A1" else f"{kind} has A1 only" for kind, last in wells
    )
