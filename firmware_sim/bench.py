"""The bench: where a bench file becomes a world, simulators, lines and a clock, in one asyncio process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from firmware_sim.api import ByteSimulator, RegisterSimulator, Simulator
from firmware_sim.clock import Clock
from firmware_sim.config import BenchConfig, InstrumentConfig, line_key, load_bench, misfit
from firmware_sim.control import ControlDoor
from firmware_sim.errors import BenchError
from firmware_sim.faults import UNPLUGGED_S, Fault, Gate, parse_fault
from firmware_sim.hosts.carrier import Carrier
from firmware_sim.hosts.line import Drop, LineTalk, Listener, ServiceTalk
from firmware_sim.hosts.modbus import RtuSlave, TcpSlave
from firmware_sim.hosts.pty import PtyLine
from firmware_sim.hosts.tcp import TcpLine
from firmware_sim.hosts.timers import Timers
from firmware_sim.log import BenchLog, Log, nowhere
from firmware_sim.world import World
from firmware_sim.yaml_file import Mistakes


class Bench:
    """A bench that is ready to open. Raises `BenchError` with every mistake of the instruments' options."""

    def __init__(self, config: BenchConfig, mistakes: Mistakes, log: Log = nowhere) -> None:
        self.config = config
        self._log = log
        self._simulators: dict[str, Simulator] = {}
        # With mistakes about the world, instruments could only complain about what is not there.
        self.world = World({} if mistakes.found else config.world, self._spilled)
        for instrument in () if mistakes.found else config.instruments:
            self._build(instrument, mistakes)
        mistakes.raise_any()
        self._clock = Clock(list(self._simulators.values()), config.speed)
        self._timers = Timers()
        self._gates = {
            name: Gate(name, self.world.rng_for(f"{name}/faults"), log, self._actuate)
            for name in self._simulators
        }
        self._clock.deadlines += [gate.wakes for gate in self._gates.values()]
        self._carriers: dict[str, Carrier] = {}
        self._lay_lines()
        self._control = ControlDoor(config.links / "bench.sock", self._commanded)

    def _build(self, instrument: InstrumentConfig, mistakes: Mistakes) -> None:
        try:
            simulator = instrument.factory(instrument.name, instrument.options, self.world, self._log)
        except BenchError as error:
            mistakes.add(("instruments", instrument.name), str(error))
        else:
            self._simulators[instrument.name] = simulator

    def _spilled(self, what: str, **details: Any) -> None:
        self._log("world", "action", what, **details)

    @property
    def addresses(self) -> dict[str, str]:
        """Where each instrument (and `NAME.SERVICE`) is reached; complete once the bench is open."""
        return {
            name: str(self.config.links / name) if isinstance(carrier, PtyLine) else carrier.address
            for name, carrier in self._carriers.items()
        }

    @property
    def socket(self) -> Path:
        """The control socket's path."""
        return self._control.path

    async def open(self) -> None:
        """Open every line; on failure everything opened so far is closed again."""
        try:
            await self._control.open()
            for carrier in dict.fromkeys(self._carriers.values()):
                await carrier.open()
        except BaseException:
            await self.close()
            raise
        for fault in self.config.faults:
            self._gates[fault.instrument].add(fault, self._clock.now())
        self._clock.catch_up()
        self._clock.rearm()

    async def close(self) -> None:
        """Close every line and leave no link or socket behind."""
        self._clock.stop()
        self._timers.cancel()
        for carrier in dict.fromkeys(self._carriers.values()):
            await carrier.close()
        await self._control.close()

    def snapshot(self) -> dict[str, Any]:
        """The physical truth now: the world, and each instrument's own state."""
        self._clock.catch_up()
        self._clock.rearm()
        states = {name: simulator.state() for name, simulator in self._simulators.items()}
        return {"bench": self.config.name, **self.world.snapshot(), "instruments": states}

    def inject(self, entry: Mapping[str, Any]) -> None:
        """Put a fault in force, given as in the bench file; `BenchError` names what is wrong with it."""
        fault, sentences = parse_fault(entry)
        factories = {name: type(simulator) for name, simulator in self._simulators.items()}
        sentences += misfit(fault, factories) if fault is not None else []
        if fault is None or sentences:
            raise BenchError("\n".join(sentences))
        self._clock.catch_up()
        gate = self._gates[fault.instrument]
        if fault.kind == "noise" and not fault.after and fault.probability is None:
            line = self._carriers[fault.instrument]
            assert isinstance(line, PtyLine | TcpLine)
            line.send(gate.burst(fault))
        else:
            gate.add(fault, self._clock.now())
        self._clock.rearm()

    # Lines

    def _lay_lines(self) -> None:
        shared: dict[tuple[str, str], list[InstrumentConfig]] = {}
        for instrument in self.config.instruments:
            shared.setdefault(line_key(instrument), []).append(instrument)
        for (kind, _), members in shared.items():
            carrier = self._carrier(kind, members)
            for member in members:
                self._carriers[member.name] = carrier
        for name, simulator in self._simulators.items():
            self._open_services(name, simulator)

    def _carrier(self, kind: str, members: list[InstrumentConfig]) -> Carrier:
        first = members[0]
        if kind == "opc.tcp":
            # asyncua costs some 28 MB: only a bench with an OPC UA instrument pays for it.
            from firmware_sim.hosts.lads import LadsCarrier

            return LadsCarrier(self._simulators[first.name], first.link.name, self._clock)
        drops = [self._drop(member.name) for member in members]
        if kind == "pty":
            names = [member.name for member in members] + ([first.link.name] if first.link.name else [])
            links = [self.config.links / name for name in dict.fromkeys(names)]
            return PtyLine(links, drops, self._clock)
        return TcpLine(first.link.name, lambda: LineTalk(drops, self._clock), drops, self._clock)

    def _drop(self, name: str) -> Drop:
        simulator = self._simulators[name]
        return Drop(simulator, self._gates[name], lambda: _listener(simulator), self._log)

    def _open_services(self, name: str, simulator: Simulator) -> None:
        for service_name, service in simulator.services().items():

            def talk(service: Any = service) -> ServiceTalk:
                return ServiceTalk(service, simulator, self._gates[name], self._clock, self._log)

            self._carriers[f"{name}.{service_name}"] = TcpLine(service.address, talk, (), self._clock)

    # Faults of the instruments themselves

    def _actuate(self, fault: Fault) -> None:
        simulator = self._simulators[fault.instrument]
        if fault.kind == "reboot":
            simulator.reboot()
        elif fault.kind == "disconnect":
            for name, carrier in self._carriers.items():
                if name.partition(".")[0] == fault.instrument:
                    carrier.disconnect(UNPLUGGED_S if fault.for_s is None else fault.for_s)
        elif fault.kind == "error":
            simulator.fail(fault.code)
        elif fault.kind == "drift":
            simulator.drift(fault.per_s)
            self._end(fault, lambda: simulator.drift(0.0))
        elif fault.kind == "stuck":
            endless = fault.for_s is not None and fault.count is None
            simulator.stick(None if endless else fault.count or 1)
            self._end(fault, lambda: simulator.stick(0))

    def _end(self, fault: Fault, action: Any) -> None:
        if fault.for_s is None:
            return

        def end() -> None:
            self._clock.catch_up()
            action()
            self._clock.rearm()

        self._timers.after(fault.for_s, end)

    async def _commanded(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if command.get("do") == "world":
            return {"world": self.snapshot()}
        if command.get("do") == "fault":
            self.inject(command.get("fault") or {})
            return {"done": True}
        raise BenchError(f"The bench does not know what {command.get('do')!r} is; it knows world and fault.")


def _listener(simulator: Simulator) -> Listener:
    """What listens on a new connection to this instrument."""
    if isinstance(simulator, ByteSimulator):
        return simulator
    register = cast(RegisterSimulator, simulator)
    return TcpSlave(register) if simulator.transport == "modbus-tcp" else RtuSlave([register])


@contextlib.contextmanager
def opened_log(path: Path | None) -> Any:
    """A log that appends to this file; one that keeps nothing without it."""
    if path is None:
        yield nowhere
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream: TextIO = path.open("a", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"The log {path} cannot be written: {error.strerror}.") from error
    with stream:
        yield BenchLog(stream)


@contextlib.contextmanager
def prepared(path: Path) -> Any:
    """The bench of this file, not open yet, with its log; `BenchError` with every mistake in it."""
    config, mistakes = load_bench(path)
    if mistakes.found:
        Bench(config, mistakes)
    with opened_log(config.log) as log:
        yield Bench(config, mistakes, log)
