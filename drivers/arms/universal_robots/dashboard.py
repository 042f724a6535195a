"""The dashboard server of a Universal Robots controller: lines of text on TCP 29999.

Source: Universal Robots article 15690 "Dashboard Server, port 29999" (commands and their answers); strings
as in UniversalRobots/Universal_Robots_Client_Library, dashboard_client_implementation_g5.cpp. A command ends
with LF; the server greets a new connection with one line that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from drivers.api import wire_errors
from drivers.errors import Refused
from protocols.exchange import Exchange

STOP = b"\nstop\n"
"""The LF before it closes a command that was cut in half: the server answers that it cannot understand it."""

_GREETING = "Connected:"
_REFUSALS = ("could not understand", "Failed to execute", "File not found", "Error while loading program")

_SAFE = ("NORMAL", "REDUCED")
_UNSAFE = {
    "PROTECTIVE_STOP": "is in a protective stop: see what it has hit, free it, unlock it on the pendant",
    "RECOVERY": "is in recovery mode: move it back inside its limits by hand",
    "SAFEGUARD_STOP": "is held by a safeguard stop: close the guard",
    "SYSTEM_EMERGENCY_STOP": "is in an emergency stop: clear the cause and release the button",
    "ROBOT_EMERGENCY_STOP": "is in an emergency stop: clear the cause and release the button",
}


class Dashboard:
    """One dashboard connection. Raises `Refused` or `Lost`; every question ends by its deadline."""

    def __init__(self, exchange: Exchange[bytes], unit: str) -> None:
        self.exchange = exchange
        self._unit = unit

    async def ask(self, command: str, expected: str, timeout_s: float = 3.0) -> str:
        """Send a command; return what stands behind `expected` in its answer.

        Raises `Refused` with the server's own words if it declines.
        """
        answer = await self._request(command, lambda line: line.startswith((expected, *_REFUSALS)), timeout_s)
        if not answer.startswith(expected):
            raise Refused(
                f"{self._unit}: the controller declined `{command}` ({answer}). "
                "Is it in remote control, and is the program there?"
            )
        return answer[len(expected) :].strip()

    async def fact(self, command: str) -> str | None:
        """Ask for a bare fact (serial number, model, version); None where this controller doesn't know it."""
        answer = await self._request(command, lambda line: not line.startswith(_GREETING), 3.0)
        return None if answer.startswith(_REFUSALS) or not answer else answer

    async def program_runs(self) -> bool:
        """Whether any program is running."""
        return (await self.ask("running", "Program running:")).lower() == "true"

    async def mode(self) -> str:
        """BOOTING, POWER_OFF, IDLE (brakes on), RUNNING (brakes off) and the like."""
        return await self.ask("robotmode", "Robotmode:")

    async def require_safe(self) -> None:
        """Raises `Refused` unless the safety system lets the arm move."""
        status = await self.ask("safetystatus", "Safetystatus:")
        if status not in _SAFE:
            text = _UNSAFE.get(status, f"may not move, its safety status is {status}: see the pendant")
            raise Refused(f"{self._unit} {text}; then reset.")

    async def stop(self) -> None:
        """End the program, if one runs."""
        await self._request("stop", lambda line: line.startswith(("Stopped", *_REFUSALS)), 3.0)

    async def _request(self, command: str, accept: Callable[[str], bool], timeout_s: float) -> str:
        with wire_errors():
            line = await self.exchange.request(
                command.encode("ascii") + b"\n",
                accept=lambda frame: accept(_text(frame)),
                timeout_s=timeout_s,
                unit=self._unit,
            )
        return _text(line)


def _text(frame: bytes) -> str:
    return frame.decode("utf-8", "replace").strip()
