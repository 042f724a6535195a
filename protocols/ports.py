"""Serial ports of this machine, found without opening any of them.

Source: pyserial 3.5, serial.tools.list_ports (sysfs); /dev/serial/by-id is udev's (60-serial.rules).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports as pyserial

BY_ID = Path("/dev/serial/by-id")


@dataclass(frozen=True)
class SerialDevice:
    """One port; `vid` and `pid` are four hexadecimal digits, empty strings stand for what is not known."""

    device: str
    by_id: str
    """The name that stays the same wherever it is plugged in; the one for a cell file."""
    vid: str
    pid: str
    serial: str
    description: str


def list_ports(by_id: Path = BY_ID) -> list[SerialDevice]:
    """Every serial port, sorted by device name."""
    names = _stable_names(by_id)
    return [
        SerialDevice(
            device=port.device,
            by_id=names.get(str(Path(port.device).resolve()), ""),
            vid=_hex(port.vid),
            pid=_hex(port.pid),
            serial=port.serial_number or "",
            description=port.description if port.description not in (None, "n/a") else "",
        )
        for port in sorted(pyserial.comports())
    ]


def _stable_names(by_id: Path) -> dict[str, str]:
    if not by_id.is_dir():
        return {}
    return {str(link.resolve()): str(link) for link in sorted(by_id.iterdir())}


def _hex(number: int | None) -> str:
    return f"{number:04x}" if number is not None else ""
