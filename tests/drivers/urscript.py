"""Runs the part of URScript that labedge_mover is written in: enough to try its handshake, not its motion.

The script is turned into Python line by line (`end` closes a block, `global x = …` assigns outside, `p[…]` is
a list) and run on a thread with the controller's registers behind `read_port_register`. Motions take a given
time and go to a log. What this cannot show: that PolyScope accepts the script, and how a real arm moves.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPENS = re.compile(r"(def|thread|if|while)\b")
GLOBAL = re.compile(r"global\s+(\w+)\s*=")


class Killed(BaseException):
    """The thread was killed, or the program ended."""


def python_of(source: str) -> str:
    """The script as Python. Raises `ValueError` where blocks do not match."""
    lines: list[str] = []
    depth = 0
    for number, raw in enumerate(source.splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        if line == "end":
            depth -= 1
            if depth < 0:
                raise ValueError(f"line {number}: an `end` too many")
            continue
        indent = depth - (1 if line.startswith(("elif", "else")) else 0)
        if raw.index(line[0]) != 2 * indent:
            raise ValueError(f"line {number} is not indented as deep as its block")
        lines.append("    " * indent + _statement(line))
        if OPENS.match(line):
            depth += 1
            if line.startswith(("def", "thread")):
                lines.append("    " * depth + f"global {', '.join(sorted(set(GLOBAL.findall(source))))}")
    if depth:
        raise ValueError("a block is never closed")
    return "\n".join(lines)


def _statement(line: str) -> str:
    line = re.sub(r"\bp\[", "[", line)
    line = re.sub(r"^(local|global)\s+", "", line)
    line = re.sub(r"^thread\s+(\w+)", r"def \1", line)
    line = re.sub(r"\brun\s+(\w+)\(\)", r"start(\1)", line)
    return re.sub(r"^kill\s+(\w+)", r"kill(\1)", line)


class Controller:
    """Registers, a gripper, and one running program."""

    def __init__(self, script: Path, registers: dict[int, int]) -> None:
        self.registers = registers
        self.log: list[str] = []
        self.move_s = 0.05
        self.plate_at: tuple[float, float] | None = None
        self.holds = False
        self.reachable = True
        self._tool = [0.0, 0.0, 0.5, 0.0, 3.1416, 0.0]
        self._code = compile(python_of(script.read_text()), str(script), "exec")
        self._killed: dict[threading.Thread, bool] = {}
        self._threads: list[threading.Thread] = []

    def play(self) -> None:
        names: dict[str, Any] = {
            name.removeprefix("ur_"): getattr(self, name) for name in dir(self) if name.startswith("ur_")
        }
        self._start(lambda: exec(self._code, names))

    def stop(self) -> None:
        for thread in self._threads:
            self._killed[thread] = True
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()

    def _start(self, body: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                body()
            except Killed:
                return

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            if self._killed.get(threading.current_thread()):
                raise Killed
            if time.monotonic() >= until:
                return
            time.sleep(0.002)

    def _go(self, pose: list[float]) -> None:
        self._pass(self.move_s)
        self._tool = list(pose)
        self.log.append(f"at {pose[0] * 1000:.0f} {pose[1] * 1000:.0f} {pose[2] * 1000:.0f}")

    # What the script may call.

    def ur_read_port_register(self, address: int) -> int:
        return self.registers.get(address, 0)

    def ur_write_port_register(self, address: int, value: int) -> None:
        assert 160 <= address <= 171, f"register {address} is the edge's"
        assert 0 <= value <= 0xFFFF
        self.registers[address] = value

    def ur_start(self, body: Callable[[], Any]) -> threading.Thread:
        return self._start(body)

    def ur_kill(self, thread: threading.Thread) -> None:
        self._killed[thread] = True
        thread.join(5)

    def ur_sync(self) -> None:
        self._pass(0.002)

    def ur_sleep(self, seconds: float) -> None:
        # The gripper need not take its time here; the heartbeat's 0.1 s stays.
        self._pass(min(seconds, 0.1))

    def ur_movel(self, pose: list[float], a: float, v: float) -> None:
        assert a > 0
        assert v > 0
        self._go(pose)

    def ur_movej(self, joints: list[float], a: float, v: float) -> None:
        self._pass(self.move_s)
        self.log.append("joints")

    def ur_stopl(self, a: float) -> None:
        self.log.append("stopl")

    def ur_get_actual_tcp_pose(self) -> list[float]:
        return list(self._tool)

    def ur_is_within_safety_limits(self, pose: list[float]) -> bool:
        return self.reachable

    def ur_pose_trans(self, frame: list[float], pose: list[float]) -> list[float]:
        # The script only turns about Z and flips the tool: no offset is ever rotated in these tests.
        assert pose[:3] == [0, 0, 0]
        return [*frame[:3], *pose[3:]]

    def ur_set_tool_digital_out(self, output: int, high: bool) -> None:
        here = (round(self._tool[0], 4), round(self._tool[1], 4))
        if high and not self.holds and self.plate_at == here:
            self.holds, self.plate_at = True, None
        elif not high and self.holds:
            self.holds, self.plate_at = False, here
        self.log.append("grip" if high else "release")

    def ur_get_tool_digital_in(self, number: int) -> bool:
        return self.holds
