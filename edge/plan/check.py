"""The verdict on a plan before anything moves: every predictable reason against it, with its path.

Pure: a plan, a cell, the inventory and the time in; reasons and a compiled plan out. The same functions
check a single step again when its turn comes (`resolve`, `Bookkeeper.problems`), because the world moves on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from drivers.api import Operation
from edge.plan import expression
from edge.plan.cellmodel import CellModel, field_kinds
from edge.plan.expression import Expression, ExpressionError, Lookup
from edge.plan.inventory import Bookkeeper, Inventory
from edge.plan.model import Plan, Reason, Reasons, Step

NAME_LENGTH = 64
MANY = 50
"""Names that are looked through for the one that was probably meant."""
FEW = 20
"""Names that are listed when none is near."""


@dataclass(frozen=True)
class Argument:
    """A value as written, or the expression that gives it at run time."""

    value: Any = None
    expression: Expression | None = None


@dataclass(frozen=True)
class CompiledStep:
    """A step whose device, operation and arguments are known to exist."""

    step: Step
    operation: Operation
    args: dict[str, Argument]

    @property
    def execution(self) -> str:
        """Name of this execution in journal, documents and commands."""
        return self.step.id


@dataclass(frozen=True)
class CompiledPlan:
    """A plan that may run."""

    plan: Plan
    steps: tuple[CompiledStep, ...]
    estimates: tuple[float | None, ...]
    """Seconds of each step by the driver's estimate; None where an argument is only known at run time."""


@dataclass
class _Scope:
    """What expressions of a step may name: constants with values, the rest with types only."""

    constants: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)
    """Type of every name, constants included; grows step by step, since plans are long."""
    later: set[str] = field(default_factory=set)
    """Ids of steps that come at or after the one being checked."""


def check(
    plan: Plan, cell: CellModel, inventory: Inventory, now: datetime
) -> tuple[CompiledPlan, list[Reason]]:
    """Check a parsed plan against the cell and what stands on it now. `inventory` is not changed."""
    reasons = Reasons()
    _check_header(plan, cell, now, reasons)
    scope = _scope(plan, cell, reasons)
    keeper = Bookkeeper(cell, inventory.copy())
    booking = True
    steps = []
    for index, step in enumerate(plan.steps):
        if reasons.more:
            break
        path = plan.path(index)
        compiled = _compile(step, path, cell, scope, reasons)
        if compiled is not None:
            steps.append(compiled)
            booking = booking and _book(compiled, path, keeper, reasons)
            kinds = cell.result_kinds(step.device, step.operation)
            scope.kinds.update({f"{step.id}.{name}": kind for name, kind in kinds.items()})
        else:
            booking = False
        scope.later.discard(step.id)
    estimates = tuple(_estimate_s(step, cell) for step in steps)
    return CompiledPlan(plan, tuple(steps), estimates), reasons.all()


def resolve(compiled: CompiledStep, lookup: Lookup) -> tuple[Any, list[Reason]]:
    """The operation's argument struct with every expression evaluated, or reasons why not."""
    values: dict[str, Any] = {}
    reasons = Reasons()
    for name, argument in compiled.args.items():
        if argument.expression is None:
            values[name] = argument.value
            continue
        try:
            values[name] = argument.expression.evaluate(lookup)
        except (ExpressionError, LookupError) as error:
            reasons.add(f"args.{name}", str(error.args[0]) if error.args else str(error))
    if reasons.found:
        return None, reasons.all()
    try:
        return msgspec.convert(values, compiled.operation.args), []
    except msgspec.ValidationError as error:
        return None, [Reason("args", f"{error}")]


def _estimate_s(compiled: CompiledStep, cell: CellModel) -> float | None:
    args, wrong = resolve(compiled, _nothing)
    if wrong:
        return None
    return float(compiled.operation.estimate_s(cell.devices[compiled.step.device].options, args))


def _check_header(plan: Plan, cell: CellModel, now: datetime, reasons: Reasons) -> None:
    if plan.cell and plan.cell != cell.name:
        reasons.add("cell", f"the plan is for cell `{plan.cell}`; this is `{cell.name}`")
    if plan.expires_at is not None and plan.expires_at <= now:
        reasons.add("expires_at", f"the plan expired at {plan.expires_at.isoformat()}")
    if plan.order == "dataflow":
        reasons.add("order", "order `dataflow` is not built yet in this version; use `sequential`")


def _scope(plan: Plan, cell: CellModel, reasons: Reasons) -> _Scope:
    """Names in one namespace; any collision is a reason."""
    owners = {name: "a device" for name in cell.devices}
    for name in plan.parameters:
        if name in owners:
            reasons.add(f"parameters.{name}", f"`{name}` is already {owners[name]} of this cell")
        owners.setdefault(name, "a parameter")
    for index, step in enumerate(plan.steps):
        if step.id in owners:
            reasons.add(f"{plan.path(index)}.id", f"`{step.id}` is already {owners[step.id]}")
    constants = dict(plan.parameters)
    scope = _Scope(constants, {name: _kind(value) for name, value in constants.items()})
    scope.later = {step.id for step in plan.steps}
    for name, device in cell.devices.items():
        scope.kinds.update({f"{name}.{reading}": kind for reading, kind in device.readings.items()})
    return scope


def _compile(step: Step, path: str, cell: CellModel, scope: _Scope, reasons: Reasons) -> CompiledStep | None:
    device = cell.devices.get(step.device)
    if device is None:
        reasons.add(
            f"{path}.device", f"there is no device `{step.device}`{_nearest(step.device, cell.devices)}"
        )
        return None
    operation = device.operations.get(step.operation)
    if operation is None:
        near = _nearest(step.operation, device.operations)
        reasons.add(
            f"{path}.operation", f"{step.device} ({device.driver}) has no operation `{step.operation}`{near}"
        )
        return None
    before = len(reasons.found)
    args = _arguments(step, path, operation, scope, reasons)
    _check_things(args, device.kinds[step.operation], path, cell, reasons)
    if step.record and operation.result is None:
        reasons.add(f"{path}.record", f"{step.operation} gives no readings, so there is nothing to record")
    if len(reasons.found) != before or reasons.more:
        return None
    return CompiledStep(step, operation, args)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """Looks at a bounded part of what there is: a large plan may be wrong in very many places."""
    near = difflib.get_close_matches(name[:NAME_LENGTH], islice(known, MANY), n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    listed = ", ".join(islice(known, FEW)) or "none"
    return f"; there is {listed}" + (f" and {len(known) - FEW} more" if len(known) > FEW else "")


def _arguments(
    step: Step, path: str, operation: Operation, scope: _Scope, reasons: Reasons
) -> dict[str, Argument]:
    fields = {f.name: f for f in msgspec.structs.fields(operation.args)}
    kinds = field_kinds(operation.args)
    args: dict[str, Argument] = {}
    for name, value in step.args.items():
        where = f"{path}.args.{name}"
        if name not in fields:
            reasons.add(where, f"{step.operation} takes no `{name}`{_nearest(name, fields)}")
            continue
        argument = _argument(value, where, scope, kinds.get(name), reasons)
        if argument is None:
            continue
        args[name] = argument
        if argument.expression is None:
            try:
                msgspec.convert(argument.value, fields[name].type)
            except msgspec.ValidationError as error:
                reasons.add(where, f"{error}")
    for name, known in fields.items():
        if known.required and name not in step.args:
            reasons.add(f"{path}.args.{name}", f"{step.operation} needs `{name}`")
    return args


def _argument(value: Any, path: str, scope: _Scope, wanted: str | None, reasons: Reasons) -> Argument | None:
    """Constant expressions are folded, so that they are checked like plain values."""
    if not (isinstance(value, dict) and "$" in value):
        return Argument(value=value)
    if set(value) != {"$"} or not isinstance(value["$"], str):
        reasons.add(path, 'an expression is written {"$": "text"} with nothing beside it')
        return None
    try:
        parsed = expression.parse(value["$"])
        names = parsed.names()
        unknown = sorted(name for name in names if name not in scope.kinds)
        for name in unknown:
            reasons.add(path, _unknown_name(name, scope))
        if unknown:
            return None
        if names <= scope.constants.keys():
            return Argument(value=parsed.evaluate(scope.constants.__getitem__))
        kind = parsed.kind(scope.kinds)
    except ExpressionError as error:
        reasons.add(path, f"{error}")
        return None
    if wanted is not None and kind is not None and kind != wanted:
        reasons.add(path, f"the expression gives a {kind}; a {wanted} is needed")
        return None
    return Argument(expression=parsed)


def _kind(value: Any) -> str:
    return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def _unknown_name(name: str, scope: _Scope) -> str:
    owner = name.partition(".")[0]
    if owner in scope.later:
        return f"`{name}` is a result of step `{owner}`, which has not run by then"
    near = _nearest(name, scope.kinds)
    return f"`{name}` is no parameter, no earlier step's result and no live reading{near}"


def _check_things(
    args: dict[str, Argument], kinds: dict[str, str], path: str, cell: CellModel, reasons: Reasons
) -> None:
    """Wells, labware and positions that a plan names must exist."""
    for name, kind in kinds.items():
        argument = args.get(name)
        if argument is None or not isinstance(argument.value, str):
            continue
        where, value = f"{path}.args.{name}", argument.value
        if kind == "well" and not cell.has_well(value):
            reasons.add(where, f"there is no well `{value}`; labware: {', '.join(cell.labware) or 'none'}")
        elif kind == "labware" and value not in cell.labware:
            reasons.add(where, f"there is no labware `{value}`{_nearest(value, cell.labware)}")
        elif kind == "position" and value not in cell.positions:
            reasons.add(where, f"there is no position `{value}`{_nearest(value, cell.positions)}")


def _book(compiled: CompiledStep, path: str, keeper: Bookkeeper, reasons: Reasons) -> bool:
    """Book the step on the copy; False from the first step on whose amounts are only known at run time."""
    if not compiled.operation.touches:
        return True
    if any(argument.expression is not None for argument in compiled.args.values()):
        return False
    args, wrong = resolve(compiled, _nothing)
    if wrong:
        return False
    values = msgspec.structs.asdict(args)
    problems = keeper.problems(compiled.step.device, compiled.operation, values)
    for argument, sentence in problems:
        reasons.add(f"{path}.args.{argument}", sentence)
    keeper.apply(compiled.step.device, compiled.operation, values, {})
    return True


def _nothing(name: str) -> Any:
    raise LookupError(f"`{name}` is not known yet")
