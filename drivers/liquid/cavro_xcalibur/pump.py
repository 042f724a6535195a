"""The pump as a device; see the package's page for frame and rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import ceil
from typing import ClassVar, NamedTuple, cast

import msgspec

from drivers.api import (
    Attempt,
    Device,
    Draws,
    Effect,
    Empties,
    FixedWell,
    Identity,
    Intent,
    LineUse,
    Options,
    Outcome,
    Outlet,
    OverPosition,
    Puts,
    already_sent,
    operation,
    wire_errors,
)
from drivers.errors import Fault, Lost, Refused
from drivers.liquid.cavro_xcalibur.declared import (
    PULSES,
    Aspirate,
    CavroOptions,
    Dispense,
    Initialize,
    Moved,
    Over,
    PumpReadings,
)
from drivers.liquid.cavro_xcalibur.frames import (
    DECLINED,
    OVERLOADED,
    STOP_LEAD_IN,
    UNINITIALIZED,
    Answer,
    decode,
    encode,
)
from protocols.errors import BadFrame, LinkTimeout, WireError
from protocols.exchange import Exchange
from protocols.framed import FramedDecoder
from protocols.links import Links
from protocols.serial_port import SerialSettings

INITIALIZE_S = 6.0
REPLY_S = 0.1
TRIES = 4
LOOK_S = 0.25
"""Longest time between two looks at a moving pump, so that an overload is noticed while it is news."""
SLACK = 0.002
"""Of a stroke: what rounding to increments may leave missing in the syringe, or too much."""


class _Move(NamedTuple):
    """One plunger move, in increments; what the journal remembers of it."""

    port: int
    before: int
    after: int
    expected_s: float


def _seconds(options: CavroOptions, args: Aspirate | Dispense) -> float:
    return options.seconds(args.volume_ul, max(5, options.pulses(args.speed_ul_s)))


class CavroXCalibur(Device):
    """One pump; several share a line, each with its address."""

    driver = "cavro-xcalibur"
    title = "Tecan Cavro XCalibur syringe pump"
    safe_state = "The plunger stands still where it was; a valve that is turning finishes its turn."
    grade = "simulated"
    Options: ClassVar[type[Options]] = CavroOptions
    Readings = PumpReadings
    options: CavroOptions

    def __init__(self, name: str, options: CavroOptions, links: Links) -> None:
        super().__init__(name, options, links)
        self._exchange: Exchange[bytes] | None = None
        self._unit = f"{name} (address {options.address})"
        self._sequence = 0
        self._halts = 0
        self._stopping = False
        # Ready-made, so that stopping neither computes nor fails.
        pause = bytes(ceil(0.005 * options.baudrate / 10) + 5)
        self._stops = [STOP_LEAD_IN + encode(options.address, n, "T") + pause for n in range(1, 8)]

    @classmethod
    def line(cls, options: CavroOptions) -> LineUse:
        return LineUse("cavro-oem", SerialSettings(baudrate=options.baudrate))

    @classmethod
    def outlets(cls, options: CavroOptions) -> tuple[Outlet, ...]:
        """Ends of the valve ports; the last one is where `initialize` pushes what the syringe holds."""
        order = sorted(options.ports, key=lambda port: (port == options.expels, port))
        ends = (options.ports[port] for port in order)
        return tuple(OverPosition(end.over) if isinstance(end, Over) else FixedWell(end) for end in ends)

    @classmethod
    def vessel_ul(cls, options: CavroOptions) -> float:
        return options.syringe_ul

    async def open(self) -> None:
        settings = self.line(self.options).settings
        with wire_errors():
            self._exchange = self.links.exchange(
                self.options.port, settings, FramedDecoder, quiet_s=0.02, late_s=REPLY_S, user=self.name
            )
            async with self._exchange.converse(self._unit):
                pass

    async def identify(self) -> Identity:
        firmware = await self._report("&")
        configuration = await self._report("?76")
        serial = await self._report("?202")
        model = f"Cavro XCalibur ({configuration})" if configuration else "Cavro XCalibur"
        return Identity(model, serial=serial or None, firmware=firmware or None)

    async def read(self) -> PumpReadings:
        """`Q`, `?` and `?6`. Reading clears an error that the pump reports (3.6)."""
        status = await self._status()
        plunger = await self._plunger()
        return PumpReadings(status.ready, self._ul(plunger), await self._report("?6"), status.says)

    @operation(
        settles=Effect.REPEAT,
        estimate_s=INITIALIZE_S,
        touches=(Empties("expel"),),
    )
    async def initialize(self, args: Initialize, attempt: Attempt) -> None:
        """Find the plunger's and the valve's home; the plunger ends at 0, with the expel port open.

        Doing it again is harmless: however often it runs, all that the syringe held has left through
        the expel port and the plunger stands at 0, and no other operation can have come in between.
        Without `expel` it is refused while the plunger of an initialised pump stands above 0. After a
        power cut nobody can know what the syringe holds: what it holds goes to the expel port.
        """
        halts = self._halts
        status = await self._status()
        if not status.ready:
            raise Refused(f"{self.name} is still moving; stop it, or wait until it is ready.")
        if status.error not in UNINITIALIZED and not args.expel and (held := await self._plunger()):
            raise Refused(
                f"The syringe of {self.name} stands at {self._ul(held):g} µl and would be emptied; dispense "
                "its content first, or initialise with expel: true."
            )
        force = 0 if self.options.syringe_ul >= 1000 else 1 if self.options.syringe_ul >= 250 else 2
        ports = "" if self.options.three_way else f",{min(self.options.ports)},{self.options.expels}"
        command = f"N{int(self.options.microsteps)}Z{force}{ports}R"
        answer = await self._command(command, attempt, halts, {})
        if answer.error in DECLINED:
            raise Refused(f"{self.name} did not initialise: {answer.says}.")
        with already_sent():
            final = await self._until_ready(INITIALIZE_S, limit_s=30.0)
        self._must_run_on(halts)
        if final.error:
            raise Fault(
                f"{self.name} did not initialise: {final.says}. Free plunger and valve, then try again."
            )
        if plunger := await self._plunger():
            raise Fault(
                f"{self.name} says it is initialised, but its plunger stands at {self._ul(plunger):g} µl."
            )

    @operation(settles=Effect.QUERY, estimate_s=_seconds, touches=(Draws("source", "volume_ul"),))
    async def aspirate(self, args: Aspirate, attempt: Attempt) -> Moved:
        """Draw a volume from a well into the syringe."""
        return await self._transfer(args.source, args.volume_ul, args.speed_ul_s, attempt)

    @operation(settles=Effect.QUERY, estimate_s=_seconds, touches=(Puts("target", "volume_ul"),))
    async def dispense(self, args: Dispense, attempt: Attempt) -> Moved:
        """Give a volume from the syringe into a well."""
        return await self._transfer(args.target, -args.volume_ul, args.speed_ul_s, attempt)

    async def settle(self, intent: Intent) -> Outcome:
        """The plunger tells: at its target, at its start, or somewhere that only a person can judge."""
        move = _Move(**intent.memo)
        status = await self._status()
        if not status.ready:
            status = await self._until_ready(move.expected_s)
        plunger = await self._plunger()
        if status.error in UNINITIALIZED:
            return Outcome("unknown", reason=f"{self.name}: {status.says}; how far the plunger got is lost.")
        if plunger == move.after and not status.error:
            return Outcome("finished", msgspec.to_builtins(self._moved(move)))
        if plunger == move.before and (not status.error or status.error in DECLINED):
            return Outcome(
                "not_executed", reason=f"The plunger of {self.name} has not moved. {status.says}".strip()
            )
        so_far = msgspec.to_builtins(self._moved(move, plunger))
        return Outcome("unknown", so_far, self._strayed(move, plunger, status))

    def halt(self) -> None:
        """`T` to this pump alone, behind a lead-in that ends a frame cut off by the stop, before a pause.

        The pause (bytes that every pump ignores) keeps the stop of the next pump on an RS-485 pair from
        colliding with the answer to this one.
        """
        self._halts += 1
        self._stopping = True
        self._sequence = self._sequence % 7 + 1
        if self._exchange is not None:
            self._exchange.urgent(self._stops[self._sequence - 1], self._unit)

    async def halted(self) -> bool:
        """Ready, as `Q` says. A pump that still moves after `halt` is told again, with acknowledgement."""
        if (await self._status()).ready:
            self._stopping = False
            return True
        if self._stopping:
            await self._ask("T", lambda answer: not answer.data)
        return False

    async def close(self) -> None:
        self._exchange = None

    async def _transfer(self, well: str, volume_ul: float, speed: float | None, attempt: Attempt) -> Moved:
        """One plunger move; a positive volume is drawn, a negative one given."""
        halts = self._halts
        port = self._port_to(well)
        pulses = self.options.pulses(speed)
        if not 5 <= pulses <= PULSES:
            low, high = (self.options.syringe_ul * end / PULSES for end in (5, PULSES))
            raise Refused(f"{self.name} moves at {low:.4g} to {high:g} µl/s, not at {speed:g} µl/s.")
        before = await self._start_position()
        after = self._target(before, volume_ul)
        move = _Move(port, before, after, self.options.seconds(abs(volume_ul), pulses))
        valve = "IO"[port - 1] if self.options.three_way else f"I{port}"
        answer = await self._command(f"V{pulses}{valve}A{after}R", attempt, halts, move._asdict())
        if answer.error in DECLINED or answer.error in UNINITIALIZED:
            raise Refused(f"{self.name} did not take the command: {self._advice(answer)}")
        return await self._finish(move, halts)

    async def _start_position(self) -> int:
        """Where the plunger of a pump stands that could move now; refuses otherwise."""
        status = await self._status()
        if not status.ready:
            raise Refused(f"{self.name} is still moving; stop it, or wait until it is ready.")
        if status.error and status.error not in DECLINED:
            raise Refused(f"{self.name} cannot move: {self._advice(status)}")
        plunger = await self._plunger()
        if plunger > self.options.stroke:
            raise Refused(f"{self.name} counts in microsteps, the cell file does not; initialise it first.")
        return plunger

    def _target(self, before: int, volume_ul: float) -> int:
        increments = round(volume_ul / self.options.syringe_ul * self.options.stroke)
        slack = SLACK * self.options.stroke
        after = min(max(before + increments, 0), self.options.stroke)
        if abs(before + increments - after) > slack:
            held, room = self._ul(before), self._ul(self.options.stroke - before)
            raise Refused(
                f"{self.name} cannot take {volume_ul:g} µl: its syringe has room for {room:g} µl."
                if volume_ul > 0
                else f"{self.name} cannot give {-volume_ul:g} µl: its syringe holds {held:g} µl."
            )
        if after == before:
            raise Refused(
                f"{self.name} cannot move {abs(volume_ul):g} µl: with a syringe of "
                f"{self.options.syringe_ul:g} µl one increment is {self._ul(1):g} µl. "
                "Use a smaller syringe or microsteps: true."
            )
        return after

    def _port_to(self, well: str) -> int:
        """The valve port that ends in `well`; the edge has made sure that it is the one under the nozzle."""
        for port, end in self.options.ports.items():
            if end == well:
                return port
        for port, end in self.options.ports.items():
            if isinstance(end, Over):
                return port
        known = ", ".join(f"{port}: {end}" for port, end in self.options.ports.items())
        raise Refused(f"No valve port of {self.name} ends in {well} ({known}); see `ports` in the cell file.")

    async def _finish(self, move: _Move, halts: int) -> Moved:
        """Wait for the end of a move and compare the plunger with its target."""
        for _ in range(3):
            # More than one look, because an answer of before the move can arrive late.
            with already_sent():
                status = await self._until_ready(move.expected_s)
                plunger = await self._plunger()
            self._must_run_on(halts)
            if status.error or plunger == move.after:
                break
        if status.error in UNINITIALIZED:
            raise Lost(f"{self.name}: {status.says} during the move; how far the plunger got is lost.")
        if not status.error and plunger == move.after:
            return self._moved(move)
        if plunger == move.before and status.error not in OVERLOADED:
            raise Refused(f"The plunger of {self.name} did not move. {status.says}".strip())
        raise Fault(self._strayed(move, plunger, status))

    async def _until_ready(self, expected_s: float, limit_s: float = 0.0) -> Answer:
        """Ask at a pace that the expected duration sets, until the pump is ready."""
        now = asyncio.get_running_loop().time
        end = now() + expected_s
        limit = max(end + 0.5 * expected_s + 5.0, now() + limit_s)
        shortest = 0.05
        while True:
            await asyncio.sleep(max(shortest, min(LOOK_S, end - now())))
            status = await self._status()
            if status.ready:
                return status
            if now() > limit:
                raise Lost(
                    f"{self.name} is still moving, long after the {expected_s:.3g} s that it should take."
                )
            shortest = 0.1 if now() > end else 0.05

    async def _command(
        self, command: str, attempt: Attempt, halts: int, memo: dict[str, int | float]
    ) -> Answer:
        """Send a command that moves, once and only once; the intent is durable before."""
        address, sequence = self.options.address, self._next()
        frame = encode(address, sequence, command)
        await attempt.intend(frame, **memo)
        if self._halts != halts:
            raise Refused(f"{self.name} was stopped before the command was sent.")
        again = encode(address, sequence, command, repeat=True)
        answer, first = await self._send([frame, *[again] * (TRIES - 1)], lambda answer: not answer.data)
        # The acknowledgement of a repeated command may speak of what the command has come to since.
        return answer if first else answer._replace(error=0)

    async def _status(self) -> Answer:
        return await self._ask("Q", lambda answer: not answer.data)

    async def _plunger(self) -> int:
        """Increments from 0."""
        return int((await self._ask("?", lambda answer: answer.data.isdigit())).data)

    async def _report(self, command: str) -> str:
        """Text of a report; empty if the pump does not know the command."""
        answer = await self._ask(command, lambda answer: bool(answer.data) or answer.error in (2, 3))
        return answer.data.strip()

    async def _ask(self, command: str, accept: Callable[[Answer], bool]) -> Answer:
        """Ask what may be asked any number of times."""
        frames = (encode(self.options.address, self._next(), command) for _ in range(TRIES))
        return (await self._send(frames, accept))[0]

    async def _send(self, frames: Iterable[bytes], accept: Callable[[Answer], bool]) -> tuple[Answer, bool]:
        """Send the frames one after the other until one is answered; whether that was the first."""
        if self._exchange is None:
            raise Lost(f"{self.name} has not been opened.", sent=False)
        halts, sent, problem = self._halts, False, None

        def takes(payload: bytes) -> bool:
            answer = decode(payload)
            return answer is not None and accept(answer)

        for frame in frames:
            if self._halts != halts:
                break
            timeout_s = REPLY_S + (len(frame) + 60) * 10 / self.options.baudrate
            try:
                payload = await self._exchange.request(
                    frame, accept=takes, timeout_s=timeout_s, unit=self._unit
                )
            except WireError as failure:
                sent, problem = sent or failure.sent, failure
                if not failure.sent or not isinstance(failure, LinkTimeout | BadFrame):
                    break
            else:
                return cast(Answer, decode(payload)), problem is None
        raise Lost(f"{self.name}: {problem}", sent=sent) from problem

    def _next(self) -> int:
        self._sequence = self._sequence % 7 + 1
        return self._sequence

    def _must_run_on(self, halts: int) -> None:
        if self._halts != halts:
            raise Lost(f"{self.name} was stopped during the move.")

    def _ul(self, increments: int) -> float:
        return round(increments * self.options.syringe_ul / self.options.stroke, 6)

    def _moved(self, move: _Move, plunger: int | None = None) -> Moved:
        """What has been moved when the plunger stands there; None: at its target."""
        end = move.after if plunger is None else plunger
        return Moved(self._ul(abs(end - move.before)), self._ul(end))

    def _strayed(self, move: _Move, plunger: int, status: Answer) -> str:
        because = f": {self._advice(status)}" if status.error else "."
        return (
            f"The plunger of {self.name} stands at {self._ul(plunger):g} µl, on its way from "
            f"{self._ul(move.before):g} µl to {self._ul(move.after):g} µl{because}"
        )

    def _advice(self, status: Answer) -> str:
        needs = status.error in OVERLOADED or status.error in UNINITIALIZED
        return f"{status.says}." if not needs else f"{status.says}; initialise it first."
