"""A plate photometer as OPC 30500-1 (LADS 1.0.0) sees one: a functional unit that runs programs.

Pure: it knows states, programs and light, and nothing of OPC UA; `hosts/lads.py` shows it as nodes.

- States of the unit: Stopped, Running, Stopping, Aborting, Aborted, Clearing (FunctionalStateMachineType);
  while Running: Starting, Execute, Completing, Complete (RunningStateMachineType).
- One program template, `Absorbance`. Properties: `wavelength_nm` ("450") or `wavelengths_nm` ("450,520,630");
  450 nm without either. Samples name wells of the plate by `Position`; no samples means every well, row by
  row.
- A run takes 1 s and 0.2 s for each well at each wavelength, of physical time.
- A result holds three arrays of equal length, well by well and within a well wavelength by wavelength:
  `Absorbance` (AU), `WavelengthNm`, `Positions`. The last 100 are kept; a run that was stopped or aborted
  leaves none.
- A run that cannot be carried out (no plate, no such well, a stuck filter wheel) ends in Aborted, and the
  reason is the `EffectiveDisplayName` of the unit's `CurrentState`. `Clear` leads back to Stopped.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from firmware_sim.api import BenchError, Log, Simulator
from firmware_sim.options import number, serial_number, text
from firmware_sim.world import World

STOPPED, RUNNING, STOPPING = "Stopped", "Running", "Stopping"
ABORTING, ABORTED, CLEARING = "Aborting", "Aborted", "Clearing"
STARTING, EXECUTE, COMPLETING, COMPLETE = "Starting", "Execute", "Completing", "Complete"

TEMPLATE = "Absorbance"
DEFAULT_NM = 450.0
LOWEST_NM, HIGHEST_NM = 200.0, 1100.0
MOST_WAVELENGTHS = 16
KEPT_RESULTS = 100

STARTING_S, PER_READING_S, COMPLETING_S, STOPPING_S = 0.4, 0.2, 0.4, 0.2
_PASSING_S = 0.2
_WELL = re.compile(r"[A-Z]{1,2}[1-9][0-9]?")


class InvalidState(Exception):
    """The method is not allowed in the unit's present state."""


class InvalidArgument(Exception):
    """The arguments of a method cannot be served."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the caller says of a sample (SampleInfoType); `position` is its well."""

    container_id: str = ""
    sample_id: str = ""
    position: str = ""
    custom_data: str = ""


@dataclass(slots=True)
class Run:
    """One program run; `stopped` and the three arrays are filled when it has completed."""

    run_id: str
    job: str
    task: str
    properties: dict[str, str]
    samples: tuple[Sample, ...]
    wavelengths_nm: tuple[float, ...]
    started: datetime
    stopped: datetime | None = None
    readings: int = 0
    spent_s: float = 0.0
    labware: str = ""
    wells: tuple[str, ...] = ()
    positions: list[str] = field(default_factory=list)
    wavelength_nm: list[float] = field(default_factory=list)
    absorbance: list[float] = field(default_factory=list)

    @property
    def estimated_s(self) -> float:
        return STARTING_S + COMPLETING_S + STOPPING_S + PER_READING_S * self.readings


@dataclass(frozen=True, slots=True)
class Unit:
    """The functional unit at one moment. `running` is the substate, empty unless Running."""

    state: str
    running: str
    reason: str
    run_id: str
    job: str
    task: str
    spent_s: float
    estimated_s: float
    absorbance: float
    healthy: bool


class LadsPhotometer(Simulator):
    """Reads the plate at one position.

    Options: `at` (default: the position of the instrument's name, else the bench's only labware or plate),
    `noise` (standard deviation, AU, default 0.002), `max_au` (where the detector is dark, default 4),
    `serial`. Faults: `drift` in AU per second; `stuck` makes runs fail; `error` takes any code but 0,
    aborts and is not cleared until the code is 0 again.
    """

    model: ClassVar[str] = "lads-photometer"
    transport: ClassVar[str] = "opcua"
    option_names: ClassVar[frozenset[str] | None] = frozenset({"at", "noise", "max_au", "serial"})

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        super().__init__(name, options, world, log)
        self.serial = serial_number(name, options)
        self.on_change: Callable[[], None] = _nobody
        self.on_reboot: Callable[[], None] = _nobody
        self.now: Callable[[], datetime] = _utc_now
        self.results: deque[Run] = deque(maxlen=KEPT_RESULTS)
        self._noise = number(options, "noise", 0.002, 0.0, 4.0)
        self._max_au = number(options, "max_au", 4.0, 0.1, 10.0)
        self._position, self._labware = _what_it_sees(name, options, world)
        self._random = world.rng_for(name)
        self._state, self._running = STOPPED, ""
        self._left_s: float | None = None
        self._run: Run | None = None
        self._runs = 0
        self._last_au = 0.0
        self._reason = ""
        self._drift_per_s = self._drift_au = 0.0
        self._stuck: int | None = 0
        self._code = 0

    # The methods of the unit.

    def start_program(
        self, template: str, properties: Mapping[str, str], job: str, task: str, samples: Sequence[Sample]
    ) -> str:
        """Begin a run; its id. `InvalidState` unless Stopped, `InvalidArgument` for what it cannot
        measure."""
        if self._state != STOPPED:
            raise InvalidState
        if template != TEMPLATE:
            raise InvalidArgument(f"there is no program template {template!r}")
        wavelengths = _wavelengths(properties)
        for sample in samples:
            if not _WELL.fullmatch(sample.position):
                raise InvalidArgument(f"{sample.position!r} is no well")
        self._runs += 1
        started = self.now()
        self._run = Run(
            run_id=f"{started:%Y%m%dT%H%M%S}-{self._runs}",
            job=job,
            task=task,
            properties=dict(properties),
            samples=tuple(samples),
            wavelengths_nm=wavelengths,
            started=started,
            readings=len(samples) * len(wavelengths),
        )
        self._reason = ""
        self._enter(RUNNING, STARTING, STARTING_S)
        return self._run.run_id

    def stop(self) -> None:
        """End the run without a result."""
        if self._state != RUNNING:
            raise InvalidState
        self._run = None
        self._enter(STOPPING, "", STOPPING_S)

    def abort(self) -> None:
        """End the run at once and without a result; `clear` is needed before the next."""
        if self._state not in (RUNNING, STOPPING):
            raise InvalidState
        self._abort("aborted by a client")

    def clear(self) -> None:
        if self._state != ABORTED or self._code:
            raise InvalidState
        self._reason = ""
        self._enter(CLEARING, "", _PASSING_S)

    # Time.

    def due(self) -> float | None:
        return self._left_s

    def tick(self, dt: float) -> None:
        self._drift_au += self._drift_per_s * dt
        left = dt
        while self._left_s is not None and self._left_s <= left + 1e-9:
            left = max(0.0, left - self._left_s)
            self._pass(self._left_s)
            self._next()
        if self._left_s is not None:
            self._left_s -= left
            self._pass(left)

    def _pass(self, seconds: float) -> None:
        if self._run is not None:
            self._run.spent_s += seconds

    def _enter(self, state: str, running: str = "", lasts_s: float | None = None) -> None:
        self._state, self._running, self._left_s = state, running, lasts_s
        self.on_change()

    def _next(self) -> None:
        if self._state == RUNNING and self._run is not None:
            self._next_running(self._run)
        elif self._state == ABORTING:
            self._enter(ABORTED)
        else:
            self._enter(STOPPED)

    def _next_running(self, run: Run) -> None:
        if self._running == STARTING:
            obstacle = self._look(run)
            if obstacle:
                self._abort(obstacle)
            else:
                self._enter(RUNNING, EXECUTE, PER_READING_S * run.readings)
        elif self._running == EXECUTE:
            if self._plate() != run.labware:
                self._abort(f"{run.labware} was taken away during the measurement")
            else:
                self._measure(run)
                self._enter(RUNNING, COMPLETING, COMPLETING_S)
        elif self._running == COMPLETING:
            run.stopped = self.now()
            self.results.append(run)
            self._enter(RUNNING, COMPLETE, 0.0)
        else:
            self._run = None
            self._enter(STOPPING, "", STOPPING_S)

    def _abort(self, reason: str) -> None:
        self._run = None
        self._reason = reason
        self._enter(ABORTING, "", _PASSING_S)

    # Light.

    def _plate(self) -> str | None:
        if self._position is not None:
            return self.world.labware_at(self._position)
        if self._labware is not None and self.world.where(self._labware) is not None:
            return self._labware
        return None

    def _look(self, run: Run) -> str:
        """Settle which wells of which plate are measured; why it cannot be done, or nothing."""
        if self._stuck is None or self._stuck > 0:
            self._stuck = None if self._stuck is None else self._stuck - 1
            return "the filter wheel does not move"
        plate = self._plate()
        if plate is None:
            return "there is no plate in the photometer"
        shape = self.world.labware[plate].type
        wells = tuple(sample.position for sample in run.samples) or tuple(shape.wells())
        missing = [well for well in wells if shape.find(well) is None]
        if missing:
            return f"{plate} is a {shape.name} and has no well {missing[0]}"
        run.labware, run.wells = plate, wells
        run.readings = len(wells) * len(run.wavelengths_nm)
        return ""

    def _measure(self, run: Run) -> None:
        for well in run.wells:
            for wavelength in run.wavelengths_nm:
                true_au = self.world.absorbance(f"{run.labware}/{well}", wavelength)
                read_au = true_au + self._drift_au + self._random.gauss(0.0, self._noise)
                run.positions.append(well)
                run.wavelength_nm.append(wavelength)
                run.absorbance.append(min(read_au, self._max_au))
        self._last_au = run.absorbance[-1]
        self.action(
            "measure",
            labware=run.labware,
            wells=list(run.wells),
            wavelengths_nm=list(run.wavelengths_nm),
            run=run.run_id,
            task=run.task,
        )

    # Faults.

    def drift(self, per_s: float) -> None:
        self._drift_per_s = per_s

    def stick(self, movements: int | None) -> None:
        self._stuck = movements
        if self._running == EXECUTE and (movements is None or movements > 0):
            self._stuck = None if movements is None else movements - 1
            self._abort("the filter wheel does not move")

    def fail(self, code: int) -> None:
        self._code = code
        if code:
            self._abort(f"the device reports error {code}")
        else:
            self.on_change()

    def reboot(self) -> None:
        """The run and the results are lost; the unit is Stopped."""
        self.results.clear()
        self._run, self._reason, self._last_au = None, "", 0.0
        self._drift_per_s = self._drift_au = 0.0
        self._enter(STOPPED)
        self.on_reboot()

    # Seen from outside.

    def unit(self) -> Unit:
        run = self._run
        return Unit(
            state=self._state,
            running=self._running,
            reason=self._reason,
            run_id=run.run_id if run else "",
            job=run.job if run else "",
            task=run.task if run else "",
            spent_s=run.spent_s if run else 0.0,
            estimated_s=run.estimated_s if run else 0.0,
            absorbance=self._last_au,
            healthy=not self._code,
        )

    def state(self) -> dict[str, Any]:
        return {
            "state": self._state,
            "running": self._running or None,
            "reason": self._reason or None,
            "plate": self._plate(),
            "results": len(self.results),
            "drift_au": self._drift_au,
        }


def _nobody() -> None:
    """Told of changes while no server shows the unit."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _wavelengths(properties: Mapping[str, str]) -> tuple[float, ...]:
    unknown = set(properties) - {"wavelength_nm", "wavelengths_nm"}
    if unknown or len(properties) > 1:
        raise InvalidArgument("the properties are wavelength_nm or wavelengths_nm")
    listed = next(iter(properties.values()), str(DEFAULT_NM)).split(",")
    try:
        values = tuple(float(value) for value in listed)
    except ValueError:
        raise InvalidArgument(f"{','.join(listed)!r} are no wavelengths") from None
    if len(values) > MOST_WAVELENGTHS or not all(LOWEST_NM <= value <= HIGHEST_NM for value in values):
        raise InvalidArgument(f"up to {MOST_WAVELENGTHS} wavelengths of {LOWEST_NM:g} to {HIGHEST_NM:g} nm")
    return values


def _what_it_sees(name: str, options: Mapping[str, Any], world: World) -> tuple[str | None, str | None]:
    """The position it reads, or the labware it reads wherever that stands; neither on a bench without
    labware."""
    position = text(options, "at", name if name in world.positions else "")
    if position:
        if position not in world.positions:
            raise BenchError(f"at names {position!r}, and there is no such position.")
        return position, None
    labware = world.sole_labware() or world.sole_labware(sbs_only=True)
    if labware is None and world.labware:
        raise BenchError("at is missing: with several pieces of labware, name the position that is read.")
    return None, labware
