"""Serial ports, PTYs included; the only importer of pyserial.

pyserial opens and configures the port; the bytes then come over the event loop from its descriptor.
Source of the settings: termios(3), ioctl_tty(2), tty_ioctl TIOCOUTQ; of the list: pyserial 3.5,
serial.tools.list_ports, which opens no port, and udev's 60-serial.rules for /dev/serial/by-id.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import struct
import termios
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import serial
from serial.tools import list_ports as finder

from protocols.descriptor import CLOSE_WAIT_S, DescriptorStream
from protocols.errors import BadRequest, LinkDown

OPEN_TIMEOUT_S = 5.0
BY_ID = Path("/dev/serial/by-id")


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """How a serial line is set: baud, data bits 5-8, parity N E O M S, stop bits 1, 1.5 or 2.

    Two settings that are equal may share a port. Raises `BadRequest` for what no port has.
    """

    baudrate: int = 9600
    bytesize: int = 8
    parity: str = "N"
    stopbits: float = 1

    def __post_init__(self) -> None:
        if self.baudrate <= 0:
            raise BadRequest(f"A baud rate of {self.baudrate} is not possible: give a number such as 9600.")
        if self.bytesize not in (5, 6, 7, 8):
            raise BadRequest(f"{self.bytesize} data bits are not possible: give 5, 6, 7 or 8.")
        if self.parity not in ("N", "E", "O", "M", "S"):
            raise BadRequest(
                f"Parity {self.parity!r} is not known: give N (none), E (even), O (odd), M or S."
            )
        if self.stopbits not in (1, 1.5, 2):
            raise BadRequest(f"{self.stopbits} stop bits are not possible: give 1, 1.5 or 2.")

    def __str__(self) -> str:
        return f"{self.baudrate} baud {self.bytesize}{self.parity}{self.stopbits:g}"

    @property
    def character_s(self) -> float:
        """Seconds that one character takes on the line, start, parity and stop bits included."""
        return (1 + self.bytesize + (self.parity != "N") + self.stopbits) / self.baudrate


class SerialPort(DescriptorStream):
    """A serial port by device path (a by-id link, a PTY) or `hwgrep://REGEXP`. Locked with `flock`."""

    def __init__(self, path: str, settings: SerialSettings) -> None:
        super().__init__(path)
        self.settings = settings
        self._port: serial.Serial | None = None

    async def open(self) -> None:
        """Open, lock, configure and flush the port; raises `LinkDown` with what to do about it."""
        if self.is_open:
            return
        # A USB adapter answers its settings in many milliseconds: not on the loop. The thread ends with it.
        executor = ThreadPoolExecutor(1, thread_name_prefix="open-port")
        opening = executor.submit(self._open_blocking)
        executor.shutdown(wait=False)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                port = await asyncio.wrap_future(opening)
        except TimeoutError:
            opening.add_done_callback(_close_late)
            raise LinkDown(
                f"{self.name} did not open within {OPEN_TIMEOUT_S:g} s: "
                "unplug its adapter and plug it in again.",
                sent=False,
            ) from None
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        self._port = port
        self._attach(port.fileno())

    def _open_blocking(self) -> serial.Serial:
        try:
            if "://" in self.name:
                port = serial.serial_for_url(self.name, do_not_open=True, exclusive=True)
            else:
                port = serial.Serial(exclusive=True)
                port.port = self.name
            port.baudrate = self.settings.baudrate
            port.bytesize = self.settings.bytesize
            port.parity = self.settings.parity
            port.stopbits = self.settings.stopbits
            port.open()
        except (OSError, ValueError, termios.error) as problem:
            raise LinkDown(_why_not(self.name, problem), sent=False) from problem
        try:
            _finish_raw_mode(port.fileno())
        except (OSError, termios.error) as problem:
            port.close()
            raise LinkDown(_why_not(self.name, problem), sent=False) from problem
        return port

    def discard_input(self) -> None:
        """Throw away what has arrived, in the kernel too."""
        if self.is_open:
            # A port that is going away cannot be flushed; the reader will say so.
            with suppress(OSError, termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)

    def _flush_kernel_output(self) -> None:
        # A stop goes on whatever happens; if the port is gone, the write says so.
        with suppress(OSError, termios.error):
            termios.tcflush(self._fd, termios.TCOFLUSH)

    async def _settle(self) -> None:
        # Closing a tty makes the kernel wait up to 30 s for its output, and the loop with it: wait here
        # instead, as long as the line needs for it (there is no event for "sent"), bounded.
        if self._port is not None and (waiting := _unsent(self._port.fileno())):
            await asyncio.sleep(min(CLOSE_WAIT_S, waiting * self.settings.character_s + 0.01))

    def _release(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        # Only if something is left: on a PTY the flush would take from the peer what it hasn't read yet.
        if _unsent(port.fileno()):
            with suppress(OSError, termios.error):
                termios.tcflush(port.fileno(), termios.TCOFLUSH)
        port.close()


def _unsent(fd: int) -> int:
    """Bytes that the kernel holds for the port."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (OSError, ValueError):
        return 0


def _finish_raw_mode(fd: int) -> None:
    """What pyserial leaves: with VMIN 0 an empty line and a hung-up one both read as no bytes."""
    attributes = termios.tcgetattr(fd)
    attributes[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.ISTRIP | termios.IXON)
    attributes[6][termios.VMIN] = 1
    attributes[6][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _close_late(opening: Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _why_not(name: str, problem: Exception) -> str:
    """A sentence for the technician who stands in front of the port."""
    code = getattr(problem, "errno", None)
    if code == errno.ENOENT or "no ports found" in str(problem):
        return (
            f"There is no port {name}: is the instrument plugged in and switched on? "
            "`labedge scan` lists the ports of this machine."
        )
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"No permission to open {name}: add the user that runs this to the group dialout "
            "(`sudo usermod -aG dialout USER`), then log in again."
        )
    if code in (errno.EAGAIN, errno.EBUSY):
        return (
            f"{name} is in use by another program: close that program (a second daemon, a terminal program, "
            "the vendor's software) first."
        )
    if code in (errno.ENXIO, errno.ENODEV, errno.EIO):
        return f"{name} exists but nothing is behind it: unplug the adapter and plug it in again."
    return f"{name} cannot be opened as a serial port ({problem}): check `port` and the line settings."


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
        for port in sorted(finder.comports())
    ]


def _stable_names(by_id: Path) -> dict[str, str]:
    if not by_id.is_dir():
        return {}
    return {str(link.resolve()): str(link) for link in sorted(by_id.iterdir())}


def _hex(number: int | None) -> str:
    return f"{number:04x}" if number is not None else ""
