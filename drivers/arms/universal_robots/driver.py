"""Universal Robots arm (CB3, e-Series) that carries labware between taught positions.

Sources: Universal Robots article 16377 "Modbus server" (registers 128-255, 258-262, 400-402), article 15690
"Dashboard server", and ../HANDSHAKE.md for the conversation with `labedge_mover.script` on the arm.

    labedge ── Modbus TCP 502 ──► registers 128-143 ──► labedge_mover ──► motion
            ◄────────────────── registers 160-171 ◄──
            ── TCP 29999 ───────► dashboard: power, brakes, play; `stop` is the true stop

The heartbeats run both ways while the device is open. The dashboard connection is kept open, so that a stop
finds it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from drivers.api import (
    Attempt,
    Device,
    Effect,
    Identity,
    Intent,
    Labware,
    LineUse,
    Options,
    Outcome,
    Places,
    Pose,
    Position,
    WellName,
    operation,
    wire_errors,
)
from drivers.arms.universal_robots import handshake
from drivers.arms.universal_robots.dashboard import STOP, Dashboard
from drivers.arms.universal_robots.handshake import Fate, Job, JobNumber
from drivers.arms.universal_robots.mover import MODE, PROTECTIVE_STOP, RUNNING, Mover
from drivers.errors import DriverError, Fault, Lost, Refused
from protocols.lines import LineDecoder
from protocols.links import Links

MODES = {
    0: "disconnected",
    1: "confirm safety",
    2: "booting",
    3: "power off",
    4: "power on",
    5: "idle",
    6: "backdrive",
    RUNNING: "running",
}

BEAT_S = 0.3
START_S = 15.0
POWER_S = 60.0
NEAR_MM_S = 100.0
"""Speed of the program near labware, and the time of one grip."""
GRIP_S = 1.0
WAKE_S = 1.5
STILL_S = 0.05
MODE_POLL_S = 0.25


HOST_AND_PORT = msgspec.Meta(
    pattern=r"^.+:[0-9]{1,5}$", description="host:port; default: port 29999 of the same host"
)


class UrOptions(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys in the cell file; `port` is `tcp://host:502`."""

    dashboard: Annotated[str, HOST_AND_PORT] | None = None
    on_lost: Literal["finish", "stop"] = "finish"
    approach_mm: Annotated[float, msgspec.Meta(ge=0, le=500)] = 60.0
    speed_mm_s: Annotated[float, msgspec.Meta(ge=1, le=1500)] = 250.0
    program: Annotated[str, msgspec.Meta(pattern=r"^[^\s].*\.urp$")] = "labedge_mover.urp"


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class MoveLabware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to carry where."""

    labware: Labware
    to: Position
    well: WellName | None = None
    """The well that shall stand at the position's point; None: A1, as when labware is seated."""


class Moved(msgspec.Struct, frozen=True):
    """Where the labware stands now."""

    labware: str
    position: str
    well: str


class ArmReading(msgspec.Struct, frozen=True):
    """State of the arm; coordinates of the tool in the robot's base frame."""

    mode: str
    program: bool
    """Whether labedge's program runs on the arm, seen by its heartbeat."""
    protective_stop: bool
    emergency_stop: bool
    x_mm: float
    y_mm: float
    z_mm: float
    holding: bool
    homed: bool
    busy: bool


def typical_s(options: UrOptions, distance_mm: float = 600.0) -> float:
    """Seconds for a move: down and up twice near the labware, `distance_mm` three times in free travel."""
    near = min(options.speed_mm_s, NEAR_MM_S)
    return 4 * options.approach_mm / near + 3 * distance_mm / options.speed_mm_s + 2 * GRIP_S


class UniversalRobots(Device):
    """The arm. One job at a time; `move_labware` and `home` are settled by asking its registers."""

    driver = "universal-robots"
    title = "Universal Robots arm (CB3, e-Series) with the program labedge_mover"
    safe_state = (
        "The program on the arm is ended: the arm stands still with its brakes as they are, "
        "and the gripper keeps its grip."
    )
    grade = "simulated"
    Options = UrOptions
    Readings = ArmReading
    options: UrOptions

    def __init__(self, name: str, options: UrOptions, links: Links) -> None:
        super().__init__(name, options, links)
        self._mover: Mover
        self._desk: Dashboard
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stops = 0
        self._stops_cleared = 0
        self._stop_owed = False

    @classmethod
    def line(cls, options: UrOptions) -> LineUse:
        """Modbus TCP."""
        return LineUse("modbus-tcp")

    async def open(self) -> None:
        """Connect to registers and dashboard; from then on the arm hears labedge's heartbeat."""
        if not self.options.port.startswith("tcp://"):
            raise Refused(f"{self.name}: `port` of an arm is its Modbus server, such as tcp://10.0.0.5:502.")
        dashboard = self.options.dashboard or f"{urlsplit(self.options.port).hostname}:29999"
        with wire_errors():
            modbus = self.links.modbus(self.options.port, user=self.name)
            exchange = self.links.exchange(
                f"tcp://{dashboard}", None, lambda: LineDecoder(b"\n"), quiet_s=0.1, user=self.name
            )
        if self._keeper is None:
            self._mover = Mover(self.name, modbus, self.options.on_lost, self.halt)
            self._desk = Dashboard(exchange, self.name)
        await self._mover.answer()
        await self._desk.mode()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"{self.name} heartbeat")

    async def identify(self) -> Identity:
        """Model, serial number and PolyScope version, from the dashboard."""
        model = await self._desk.fact("get robot model")
        serial = await self._desk.fact("get serial number")
        return Identity(
            f"Universal Robots {model or 'arm'}", serial, await self._desk.fact("PolyscopeVersion")
        )

    async def read(self) -> ArmReading:
        """Mode, stops, tool position in mm (base frame, steps of 0.1) and what the program says."""
        answer = await self._mover.answer()
        (mode,) = await self._mover.registers(MODE, 1)
        protective, emergency = await self._mover.registers(PROTECTIVE_STOP, 2)
        x_mm, y_mm, z_mm = await self._mover.tool_mm()
        return ArmReading(
            mode=MODES.get(mode, f"mode {mode}"),
            program=self._plays,
            protective_stop=protective != 0,
            emergency_stop=emergency != 0,
            x_mm=x_mm,
            y_mm=y_mm,
            z_mm=z_mm,
            holding=answer.holding,
            homed=answer.homed,
            busy=answer.busy and self._plays,
        )

    async def prepare(self) -> None:
        """Start labedge's program if the arm is powered. Without power it waits for `initialize`."""
        await self._desk.require_safe()
        if await self._desk.mode() == "RUNNING":
            await self._play()

    @operation(settles=Effect.REPEAT, estimate_s=20.0)
    async def initialize(self, args: Nothing, attempt: Attempt) -> None:
        """Power on, release the brakes and start labedge's program; nothing moves but the brakes."""
        await self._desk.require_safe()
        await attempt.intend(b"power on\nbrake release\nplay\n")
        mode = await self._desk.mode()
        if mode in ("POWER_OFF", "POWER_ON", "BOOTING"):
            await self._desk.ask("power on", "Powering on", 10.0)
            mode = await self._until_mode("IDLE", "RUNNING")
        if mode == "IDLE":
            await self._desk.ask("brake release", "Brake releasing", 10.0)
            mode = await self._until_mode("RUNNING")
        if mode != "RUNNING":
            raise Refused(f"{self.name} is in mode {mode}: set it to normal operation on the pendant.")
        await self._play()

    @operation(settles=Effect.QUERY, estimate_s=10.0)
    async def home(self, args: Nothing, attempt: Attempt) -> None:
        """Go to the resting pose that is taught in the program on the arm."""
        options = self.options
        job = Job(
            JobNumber.HOME, attempt.job_id, approach_mm=options.approach_mm, speed_mm_s=options.speed_mm_s
        )
        await self._run(job, attempt, 10.0, {})

    @operation(
        settles=Effect.QUERY,
        estimate_s=lambda options, args: typical_s(options),
        touches=(Places("labware", "to", "well"),),
    )
    async def move_labware(self, args: MoveLabware, attempt: Attempt) -> Moved:
        """Carry a labware from where it stands to a position."""
        pick, place = self._poses(args)
        options = self.options
        job = Job(JobNumber.MOVE, attempt.job_id, pick, place, options.approach_mm, options.speed_mm_s)
        way_mm = math.dist(_point(pick), _point(place)) + 600.0
        memo = {"pick": [*_point(pick), pick.rz_rad], "place": [*_point(place), place.rz_rad]}
        await self._run(job, attempt, typical_s(options, way_mm), memo)
        return _moved(args)

    def halt(self) -> None:
        """End the program through the dashboard; if that connection is down, as soon as it is back."""
        self._stops += 1
        self._stop_owed = self._keeper is not None and not self._desk.exchange.urgent(STOP)
        self._wake.set()

    async def halted(self) -> bool:
        """The tool stands still, and no program runs that could move it (after `halt`: none at all)."""
        before = await self._mover.tool_mm()
        answer = await self._mover.answer()
        (request,) = await self._mover.registers(handshake.REQUEST, 1)
        idle = not self._stopped and not answer.busy and not request
        quiet = idle or not await self._desk.program_runs()
        await asyncio.sleep(STILL_S)
        return quiet and before == await self._mover.tool_mm()

    async def settle(self, intent: Intent) -> Outcome:
        """Ask the registers what became of a job, and wait for it if it still runs."""
        try:
            became, answer = await self._mover.settle(intent)
        except (Fault, Lost) as problem:
            return Outcome("unknown", reason=str(problem))
        if became is Fate.FINISHED:
            moved = intent.operation == "move_labware"
            args = msgspec.convert(intent.args, MoveLabware) if moved else None
            return Outcome("finished", msgspec.to_builtins(_moved(args)) if args else {})
        if became is Fate.FAILED:
            return Outcome("failed", reason=f"{self.name}: {handshake.reason(answer.error)}.")
        if became is Fate.NEVER_BEGAN:
            return Outcome("not_executed", reason=f"{self.name} never took this job over.")
        return Outcome(
            "unknown", reason=f"{self.name}: the job was {became.value}; look where the labware is."
        )

    async def close(self) -> None:
        """End the heartbeat; the connections belong to `Links`."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None

    @property
    def _stopped(self) -> bool:
        return self._stops != self._stops_cleared

    @property
    def _plays(self) -> bool:
        return self._mover.pulse.alive(asyncio.get_running_loop().time())

    async def _run(self, job: Job, attempt: Attempt, expected_s: float, memo: dict[str, Any]) -> None:
        if self._stopped:
            raise Refused(f"{self.name} has been stopped: reset the cell before it moves again.")
        await self._mover.run(job, attempt, 3 * expected_s + 20.0, memo)

    def _poses(self, args: MoveLabware) -> tuple[Pose, Pose]:
        if self.geometry is None:
            raise Refused(f"{self.name} knows no positions: teach frames under `positions` in the cell file.")
        standing = self.geometry.where(args.labware)
        if standing is None:
            raise Refused(
                f"Nobody knows where {args.labware} stands: put it at a position, then `set_inventory`."
            )
        return self.geometry.pose(standing[0], args.labware, standing[1]), self.geometry.pose(
            args.to, args.labware, args.well
        )

    async def _until_mode(self, *wanted: str) -> str:
        deadline = asyncio.get_running_loop().time() + POWER_S
        while (mode := await self._desk.mode()) not in wanted:
            if asyncio.get_running_loop().time() > deadline:
                raise Fault(
                    f"{self.name} stays in mode {mode} and does not come to {wanted[0]}: look at the pendant."
                )
            await asyncio.sleep(MODE_POLL_S)
        return mode

    async def _play(self) -> None:
        """Have labedge's program running, and nothing requested. A stop meanwhile stays in force."""
        stops = self._stops
        if self._stopped:
            await self._desk.stop()
        runs = await self._desk.program_runs()
        if runs and not await self._mover.wakes(WAKE_S):
            raise Refused(f"{self.name}: another program runs on the arm: end it on the pendant.")
        # A request outlives the program: it would be carried out as soon as the program plays again.
        await self._mover.withdraw()
        if not runs:
            self._mover.pulse.forget()
            self._unless_stopped_since(stops)
            await self._desk.ask(f"load {self.options.program}", "Loading program:", START_S)
            self._unless_stopped_since(stops)
            await self._desk.ask("play", "Starting program", START_S)
            if not await self._mover.wakes(START_S):
                raise Fault(
                    f"{self.name}: {self.options.program} has been started and its heartbeat does not show: "
                    "is it labedge_mover.script, handshake version 1?"
                )
        self._unless_stopped_since(stops)
        self._stops_cleared = stops

    def _unless_stopped_since(self, stops: int) -> None:
        if self._stops != stops:
            raise Refused(f"{self.name} was stopped while it was made ready.")

    async def _keep(self) -> None:
        # Apart from each other: an unreachable dashboard must not keep the heartbeat waiting.
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self._beat())
            duties.create_task(self._hold_the_line())

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(DriverError):
                # The link has told its loss once; here it is only tried again.
                await self._mover.beat()
            await asyncio.sleep(BEAT_S)

    async def _hold_the_line(self) -> None:
        """A dashboard connection that is there when a stop needs it, and a stop that found none."""
        while True:
            self._wake.clear()
            with contextlib.suppress(DriverError):
                if self._stop_owed:
                    await self._desk.stop()
                    self._stop_owed = False
                elif not self._desk.exchange.is_open:
                    await self._desk.mode()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._wake.wait()


def _point(pose: Pose) -> tuple[float, float, float]:
    return pose.x_mm, pose.y_mm, pose.z_mm


def _moved(args: MoveLabware) -> Moved:
    return Moved(args.labware, args.to, args.well or "A1")
