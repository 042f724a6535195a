"""Photometer behind an OPC UA LADS server (OPC 30500-1, 1.0.0).

LADS fixes how a program is started and where its result stands, not what a photometer's program is called.
This driver starts the template of option `program` with one property, `wavelength_nm` (measure) or
`wavelengths_nm` (scan, separated by commas), and one sample; it expects in the result's VariableSet one
whose name contains `Absorbance`, and checks one whose name contains `Wavelength` if there is one (both: one
number or a list).

Every run carries the attempt's number as SupervisoryTaskId. After a lost reply, the result set tells by it
whether the measurement was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from drivers.api import (
    PLACE_PATTERN,
    Attempt,
    Device,
    Effect,
    Identity,
    Intent,
    LineUse,
    Looks,
    Options,
    Outcome,
    Well,
    already_sent,
    nothing_sent,
    operation,
    wire_errors,
)
from drivers.errors import DriverError, Fault, Lost, Refused
from drivers.sensors.lads_photometer.unit import MOVING, Unit
from protocols.links import Links

if TYPE_CHECKING:
    from protocols.opcua import OpcUa

Wavelength = Annotated[float, msgspec.Meta(ge=200, le=1100)]
MATCH_NM = 1.0
"""A filter or grating that is set to within this of what was asked for counts as set to it."""
START_S = 1.0
WAVELENGTH_S = 0.3
PATIENCE_S = 60.0


PLACE = msgspec.Meta(pattern=PLACE_PATTERN, description="position of the plate that is read")


class LadsOptions(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys in the cell file; `port` is `opc.tcp://host:port`."""

    device: Annotated[str, msgspec.Meta(description="browse name, if there are several")] | None = None
    unit: Annotated[str, msgspec.Meta(description="functional unit, if there are several")] | None = None
    program: Annotated[str, msgspec.Meta(min_length=1, description="name of the program template")] = (
        "Absorbance"
    )
    at: Annotated[str, PLACE] | None = None


class Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One well at one wavelength."""

    well: Well | None = None
    wavelength_nm: Wavelength = 450.0


class Scan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One well at several wavelengths."""

    wavelengths_nm: Annotated[list[Wavelength], msgspec.Meta(min_length=1, max_length=16)]
    well: Well | None = None


class Absorbance(msgspec.Struct, frozen=True):
    """Absorbance (log10, not corrected for path length)."""

    absorbance: float
    wavelength_nm: float


class Spectrum(msgspec.Struct, frozen=True):
    """Absorbances in the order of their wavelengths."""

    absorbance: list[float]
    wavelengths_nm: list[float]


class PhotometerReading(msgspec.Struct, frozen=True):
    """State of the functional unit."""

    state: str
    running: bool


class LadsPhotometer(Device):
    """A plate photometer: it looks, and moves no matter."""

    driver = "lads-photometer"
    title = "Photometer with an OPC UA LADS interface"
    safe_state = "The program is aborted: nothing turns, the lamp is as the instrument leaves it."
    grade = "simulated"
    Options = LadsOptions
    Readings = PhotometerReading
    options: LadsOptions

    def __init__(self, name: str, options: LadsOptions, links: Links) -> None:
        super().__init__(name, options, links)
        self._link: OpcUa | None = None
        self._unit: Unit | None = None
        self._opening = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    @classmethod
    def line(cls, options: LadsOptions) -> LineUse:
        """An OPC UA session of its own."""
        return LineUse("opcua")

    @classmethod
    def sees(cls, options: LadsOptions) -> str | None:
        """The position named by `at`."""
        return options.at

    async def open(self) -> None:
        """Open a session and find the functional unit."""
        async with self._opening:
            await self._open()

    async def identify(self) -> Identity:
        """Manufacturer, model, serial number and software revision."""
        return await (await self._here()).identity()

    async def read(self) -> PhotometerReading:
        """State of the functional unit: Stopped, Running, Aborted and so on."""
        state = await (await self._here()).state()
        return PhotometerReading(state, state == "Running")

    async def prepare(self) -> None:
        """Clear an aborted unit; refuses while a program is running."""
        unit = await self._here()
        state = await unit.state()
        if state == "Aborted":
            await unit.command("Clear")
            state = await unit.rest(PATIENCE_S)
        if state != "Stopped":
            raise Refused(f"{self.name} is {state}: wait for its program, or stop it at the instrument.")

    @operation(settles=Effect.QUERY, estimate_s=START_S + WAVELENGTH_S, touches=(Looks("well"),))
    async def measure(self, args: Measure, attempt: Attempt) -> Absorbance:
        """Measure the absorbance of one well (without `well`: A1) at one wavelength."""
        values = await self._run(
            args.well, [args.wavelength_nm], {"wavelength_nm": _nm(args.wavelength_nm)}, attempt
        )
        return Absorbance(values[0], args.wavelength_nm)

    @operation(
        settles=Effect.QUERY,
        estimate_s=lambda options, args: START_S + WAVELENGTH_S * len(args.wavelengths_nm),
        touches=(Looks("well"),),
    )
    async def scan(self, args: Scan, attempt: Attempt) -> Spectrum:
        """Measure the absorbance of one well (without `well`: A1) at up to 16 wavelengths."""
        wavelengths = list(args.wavelengths_nm)
        values = await self._run(
            args.well, wavelengths, {"wavelengths_nm": ",".join(map(_nm, wavelengths))}, attempt
        )
        return Spectrum(values, wavelengths)

    def halt(self) -> None:
        """Send Abort on a task of its own: nothing here waits."""
        unit = self._unit
        if unit is None:
            return
        with contextlib.suppress(RuntimeError):
            task = asyncio.get_running_loop().create_task(self._abort(unit))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def halted(self) -> bool:
        """Whether no program runs and the unit has come to rest."""
        return await (await self._here()).state() not in MOVING

    async def settle(self, intent: Intent) -> Outcome:
        """Wait for a program that still runs, then look for a result that carries the attempt's number."""
        unit = await self._here()
        try:
            state = await unit.rest(PATIENCE_S)
        except Lost as problem:
            return Outcome("unknown", reason=str(problem))
        variables = await unit.result(str(intent.job_id), None)
        if variables is None:
            return Outcome(
                "failed" if state == "Aborted" else "not_executed",
                reason=f"{self.name} is {state} and has no result of this measurement.",
            )
        try:
            return Outcome("finished", self._results_of(intent, variables))
        except Fault as problem:
            return Outcome("failed", reason=str(problem))

    async def close(self) -> None:
        """End the session; an Abort on its way goes first."""
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=2.0)
        self._unit = None
        if self._link is not None:
            await self._link.close()

    async def _open(self) -> None:
        # Here and not above: the OPC UA library takes 200 ms and 28 MB, which other cells need not pay.
        from protocols.opcua import OpcUa

        self._unit = None
        with wire_errors():
            self._link = self._link or OpcUa(self.options.port, on_lost=self._lost)
            await self._link.open()
        unit = Unit(self.name, self._link)
        await unit.find(self.options.device, self.options.unit)
        self._unit = unit

    async def _here(self) -> Unit:
        """The unit; finds it again after a lost connection, since its nodes may have other numbers then."""
        async with self._opening:
            if self._unit is None or self._link is None or not self._link.is_open:
                await self._open()
            assert self._unit is not None
            return self._unit

    def _lost(self, _reason: str) -> None:
        if self._unit is not None:
            self._unit.wake()

    async def _abort(self, unit: Unit) -> None:
        # Refused: nothing ran. Lost: `halted` will not say that it stands still.
        with contextlib.suppress(DriverError):
            await unit.command("Abort")

    async def _run(
        self, well: str | None, wavelengths: list[float], properties: dict[str, str], attempt: Attempt
    ) -> list[float]:
        unit = await self._ready()
        task = str(attempt.job_id)
        samples = [_sample_info(well)]
        call = {"program": self.options.program, "properties": properties, "task": task, "samples": samples}
        await attempt.intend(msgspec.json.encode(call))
        run_id = await unit.start(self.options.program, properties, ("labedge", task), samples)
        with already_sent():
            state, variables = await unit.outcome(task, run_id, PATIENCE_S)
        if variables is None:
            raise Fault(
                f"{self.name} ended its program as {state} without a result: look whether a plate is in it, "
                "and at the instrument's own message."
            )
        return self._absorbances(variables, wavelengths)

    async def _ready(self) -> Unit:
        """The unit, if it can start a program now; nothing has been asked of it before."""
        with nothing_sent():
            unit = await self._here()
            state = await unit.state()
        if state != "Stopped":
            raise Refused(f"{self.name} is {state} and can start nothing: reset the cell, or wait.")
        return unit

    def _results_of(self, intent: Intent, variables: dict[str, Any]) -> dict[str, Any]:
        result: Absorbance | Spectrum
        if intent.operation == "measure":
            wavelength_nm = msgspec.convert(intent.args, Measure).wavelength_nm
            result = Absorbance(self._absorbances(variables, [wavelength_nm])[0], wavelength_nm)
        else:
            wavelengths = list(msgspec.convert(intent.args, Scan).wavelengths_nm)
            result = Spectrum(self._absorbances(variables, wavelengths), wavelengths)
        return dict(msgspec.to_builtins(result))

    def _absorbances(self, variables: dict[str, Any], wavelengths: list[float]) -> list[float]:
        """The absorbances of a result, checked against what was asked for. Raises `Fault`."""
        values = _numbers(variables, "absorbance")
        if values is None or len(values) != len(wavelengths):
            raise Fault(
                f"{self.name}: the result has {len(values or [])} absorbances for {len(wavelengths)} "
                f"wavelengths (variables: {', '.join(variables) or 'none'}): "
                f"is `{self.options.program}` the right program?"
            )
        made = _numbers(variables, "wavelength")
        if made is not None and not _same(made, wavelengths):
            raise Fault(f"{self.name} measured at {made} nm where {wavelengths} nm were asked for.")
        if not all(math.isfinite(value) for value in values):
            raise Fault(f"{self.name}: an absorbance is no number ({values}): too much light or none?")
        return values


def _nm(wavelength_nm: float) -> str:
    return f"{wavelength_nm:g}"


def _sample_info(well: str | None) -> dict[str, str]:
    """None: well A1 of whatever stands in the instrument."""
    labware, _, name = (well or "/A1").partition("/")
    return {"ContainerId": labware, "SampleId": well or "", "Position": name, "CustomData": ""}


def _numbers(variables: dict[str, Any], word: str) -> list[float] | None:
    """The first variable whose name contains the word, as a list of numbers; None if there is none."""
    for name, value in variables.items():
        if word in name.lower():
            items = value if isinstance(value, list) else [value]
            if all(isinstance(item, int | float) for item in items):
                return [float(item) for item in items]
    return None


def _same(made: list[float], wanted: list[float]) -> bool:
    return len(made) == len(wanted) and all(
        abs(one - other) <= MATCH_NM for one, other in zip(made, wanted, strict=True)
    )
