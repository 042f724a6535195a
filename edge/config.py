"""The cell file: YAML -> frozen structs, with every mistake at once, each with path, line and mend.

The structs are in `edge.cell` and are named here too, so that this module is all that a reader needs.
Relative paths (state, certificates, serial ports) are relative to the cell file.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from drivers.api import WellName
from edge.cell import (
    Cell,
    CellName,
    DeviceConfig,
    DeviceName,
    InterlockConfig,
    LabwareConfig,
    LiquidName,
    Mqtt,
    PlaceName,
    PositionConfig,
    Telemetry,
    Text,
)
from edge.convert import Converter, nearest
from edge.crosscheck import Parts, crosscheck
from edge.errors import Mistakes
from edge.loader import BrokenDriver, UnknownDriver, driver
from edge.plan.labware import TYPES
from edge.yamlfile import BROKEN, Document, child, read_yaml
from protocols.errors import BadRequest
from protocols.mqtt_model import parse_url

__all__ = [
    "Cell",
    "DeviceConfig",
    "InterlockConfig",
    "LabwareConfig",
    "Mqtt",
    "PositionConfig",
    "Telemetry",
    "load_cell",
]

EMBEDDED_PORT = 1883
NOT_BUILT = "is not built yet in this version"


class _Mqtt(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str, msgspec.Meta(min_length=1, description="the broker, as mqtt://localhost:1883")]
    protocol: Literal[5, "5", "3.1.1"] = 5
    username: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None


class _Security(msgspec.Struct, frozen=True, kw_only=True):
    plans: Literal["signed", "unsigned"] = "unsigned"
    commands: Literal["signed", "unsigned"] = "unsigned"


class _Policy(msgspec.Struct, frozen=True, kw_only=True):
    approval: Literal["none", "operator"] = "none"
    incompatible: list[Any] = []


class _Labware(msgspec.Struct, frozen=True, kw_only=True):
    type: Annotated[str, msgspec.Meta(description="as sbs-96")]
    at: PlaceName | None = None
    well_capacity_ul: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    contents: dict[WellName, dict[LiquidName, Annotated[float, msgspec.Meta(ge=0, le=1e9)]]] = {}


class _File(msgspec.Struct, frozen=True, kw_only=True):
    cell: CellName
    state_dir: Text = "./state"
    mqtt: Annotated[Any, msgspec.Meta(description="the broker")]
    security: _Security = _Security()
    autostart: bool = True
    recovery: Literal["hold", "resume", "stop"] = "hold"
    remote_clear: bool = False
    devices: Annotated[dict[DeviceName, dict[Any, Any]], msgspec.Meta(description="the instruments")]
    positions: dict[PlaceName, PositionConfig] = {}
    labware: dict[PlaceName, _Labware] = {}
    policy: _Policy = _Policy()
    interlocks: tuple[InterlockConfig, ...] = ()
    telemetry: Telemetry = Telemetry()


_UNBUILT: dict[type, tuple[str, ...]] = {
    _File: ("panel",),
    _Security: ("keys",),
    InterlockConfig: ("stale_s", "clear_when", "latch", "forbid"),
}


def load_cell(path: Path | str) -> Cell:
    """Read and check a cell file. Raises `Mistakes` with everything that is wrong in it.

    Opens no port and asks no device; reads the files it names (password) or sees that they can be read.
    """
    file = Path(path).absolute()
    document = read_yaml(file)
    cell = _Reader(document, file).cell()
    if document.problems or cell is None:
        raise Mistakes(document.problems)
    return cell


class _Reader:
    """One cell file on its way to a `Cell`."""

    def __init__(self, document: Document, path: Path) -> None:
        self.document = document
        self.path = path
        self.converter = Converter(document, _UNBUILT)

    def cell(self) -> Cell | None:
        if self.document.data is None:
            self.document.wrong("", "The file is empty", "It has to name `cell`, `mqtt` and `devices`")
            return None
        values = self.converter.fields(self.document.data, _File, "")
        if values is None:
            return None
        self._refuse_unbuilt(values)
        parts: dict[str, Any] = {
            "mqtt": self._mqtt(values["mqtt"]),
            "state_dir": self._state_dir(values.get("state_dir", "./state")),
            "devices": self._devices(values["devices"]),
            "labware": self._labware(values.get("labware", {})),
        }
        rest = {
            name: value
            for name, value in values.items()
            if name not in parts and name not in ("security", "policy") and value is not BROKEN
        }
        positions, interlocks = rest.get("positions", {}), rest.get("interlocks", ())
        crosscheck(self.document, Parts(parts["devices"], positions, parts["labware"], interlocks))
        return None if self.document.problems else Cell(path=self.path, **parts, **rest)

    def _refuse_unbuilt(self, values: dict[str, Any]) -> None:
        security, policy = values.get("security"), values.get("policy")
        if isinstance(security, _Security):
            for key in ("plans", "commands"):
                if getattr(security, key) == "signed":
                    message = f"Checking of signed {key} {NOT_BUILT}"
                    self.document.wrong(
                        f"security.{key}", message, "Write unsigned, with a broker on this machine"
                    )
        if isinstance(policy, _Policy):
            if policy.approval == "operator":
                self.document.wrong("policy.approval", f"Approval by an operator {NOT_BUILT}", "Write none")
            if policy.incompatible:
                self.document.wrong(
                    "policy.incompatible", f"A table of incompatible liquids {NOT_BUILT}", "Leave it out"
                )

    def _mqtt(self, given: Any) -> Mqtt | None:
        values = self.converter.fields(given, _Mqtt, "mqtt") if given is not BROKEN else None
        if values is None:
            return None
        values = {name: value for name, value in values.items() if value is not BROKEN}
        files = {
            name: self._readable(name, values.get(name)) for name in ("ca_file", "cert_file", "key_file")
        }
        password = self._password(values)
        if (files["cert_file"] is None) != (files["key_file"] is None):
            self.document.wrong("mqtt", "`cert_file` and `key_file` belong together", "Give both or neither")
        address = self._broker(values["url"]) if "url" in values else None
        if address is None:
            return None
        host, port, tls = address
        return Mqtt(
            url=values["url"],
            host=host,
            port=port,
            tls=tls,
            embedded=values["url"].startswith("embedded"),
            protocol="3.1.1" if values.get("protocol") == "3.1.1" else "5",
            username=values.get("username"),
            password=password,
            **files,
        )

    def _broker(self, url: str) -> tuple[str, int, bool] | None:
        """(host, port, tls) of a broker this cell may use."""
        plain = url.replace("embedded", "mqtt", 1) if url.startswith("embedded://") else url
        if url == "embedded":
            return "127.0.0.1", EMBEDDED_PORT, False
        try:
            host, port, tls = parse_url(plain)
        except (BadRequest, ValueError) as error:
            mend = (
                ""
                if isinstance(error, BadRequest)
                else "Write mqtt://HOST:PORT, mqtts://HOST:PORT or embedded"
            )
            self.document.wrong("mqtt.url", str(error), mend)
            return None
        if not _is_loopback(host):
            message = f"An unsigned cell may only use a broker on this machine, and {host} is another"
            mend = f"Write mqtt://localhost or embedded; signing {NOT_BUILT}"
            self.document.wrong("mqtt.url", message, mend)
        return host, port, tls

    def _readable(self, name: str, file: str | None) -> Path | None:
        if file is None:
            return None
        path = self._resolve(file)
        if not path.is_file():
            self.document.wrong(
                f"mqtt.{name}", f"There is no file {path}", "Check the name; it is relative to the cell file"
            )
        elif not os.access(path, os.R_OK):
            self.document.wrong(
                f"mqtt.{name}", f"{path} cannot be read", "Give this user the permission to read it"
            )
        return path

    def _password(self, values: dict[str, Any]) -> str | None:
        path = self._readable("password_file", values.get("password_file"))
        if path is None:
            return None
        if values.get("username") is None:
            self.document.wrong(
                "mqtt.password_file", "A password needs a `username` beside it", "Add `username:`"
            )
        try:
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            self.document.wrong(
                "mqtt.password_file", f"{path} is not UTF-8 text", "Write the password into its first line"
            )
            return None
        except OSError:
            return None
        if not password or "\n" in password:
            self.document.wrong(
                "mqtt.password_file",
                f"{path} is not one line with a password",
                "Write the password alone into it",
            )
        return password

    def _state_dir(self, given: Any) -> Path | None:
        if given is BROKEN:
            return None
        path = self._resolve(given)
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        if not there.is_dir():
            self.document.wrong("state_dir", f"{there} is a file, not a folder", "Name another folder")
        elif not os.access(there, os.W_OK | os.X_OK):
            self.document.wrong(
                "state_dir", f"{there} cannot be written", "Name a folder that this user may write"
            )
        return path

    def _devices(self, given: Any) -> dict[str, DeviceConfig]:
        if given is BROKEN:
            return {}
        if not given and not self.document.data.get("devices"):
            self.document.wrong(
                "devices",
                "The cell has no devices",
                "Add at least one, as `scale: {driver: mt-sics, port: …}`",
            )
        found = {name: self._device(name, entry) for name, entry in given.items()}
        return {name: device for name, device in found.items() if device is not None}

    def _device(self, name: str, entry: dict[Any, Any]) -> DeviceConfig | None:
        path = f"devices.{name}"
        wanted = entry.get("driver")
        if not isinstance(wanted, str):
            if "driver" not in entry:
                self.document.wrong(
                    path, "`driver` is missing", "Add `driver:`; `labedge drivers` lists them"
                )
            elif wanted is not BROKEN:
                self.document.wrong(
                    f"{path}.driver", f"`{wanted}` is not a driver's name", "`labedge drivers` lists them"
                )
            return None
        try:
            device = driver(wanted)
        except (UnknownDriver, BrokenDriver) as error:
            self.document.wrong(child(path, "driver"), str(error))
            return None
        options = self.converter.struct(self._with_port(entry), device.Options, path)
        if options is BROKEN:
            return None
        return DeviceConfig(name=name, driver=wanted, device=device, options=options)

    def _with_port(self, entry: dict[Any, Any]) -> dict[Any, Any]:
        port = entry.get("port")
        if not isinstance(port, str) or not port or "://" in port:
            return entry
        return {**entry, "port": str(self._resolve(port))}

    def _labware(self, given: Any) -> dict[str, LabwareConfig]:
        found = {}
        for name, labware in () if given is BROKEN else given.items():
            if labware.type not in TYPES:
                message = f"There is no labware type {labware.type}"
                self.document.wrong(
                    f"labware.{name}.type", message, nearest(labware.type, list(TYPES), "types")
                )
                continue
            found[name] = LabwareConfig(
                type=labware.type,
                at=labware.at,
                well_capacity_ul=labware.well_capacity_ul or TYPES[labware.type].well_capacity_ul,
                contents=labware.contents,
            )
        return found

    def _resolve(self, file: str) -> Path:
        """Absolute, without `..`; symlinks stay as they are, since a by-id name is the stable one."""
        return Path(os.path.normpath(self.path.parent / Path(file).expanduser()))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.")
