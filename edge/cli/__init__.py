"""`labedge`: the command line, one file a command group, each imported only when it is called.

Exit codes: 0 ok, 1 the thing asked about is wrong, 2 bad usage. Errors are sentences on stderr;
`LABEDGE_DEBUG=1` shows the traceback behind one.
"""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import Any

import click

from edge import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("edge.cli.demo:demo", "The whole system on this machine, with a simulated bench."),
    "check": ("edge.cli.check:check", "Every mistake in a cell file; with --connect, every device."),
    "run": ("edge.cli.run:run", "The daemon of a cell, in the foreground."),
    "scan": ("edge.cli.scan:scan", "Serial ports of this machine."),
    "drivers": ("edge.cli.drivers:drivers", "Installed drivers, their options and operations."),
    "plan": ("edge.cli.plan:plan", "Check, simulate or submit a plan."),
    "status": ("edge.cli.commands:status", "What a cell is doing."),
    "start": ("edge.cli.commands:start", "Begin the head of the queue."),
    "hold": ("edge.cli.commands:hold", "Stop after the motion that is going on, and wait."),
    "unhold": ("edge.cli.commands:unhold", "Go on after a hold."),
    "stop": ("edge.cli.commands:stop", "End the run in an orderly way."),
    "abort": ("edge.cli.commands:abort", "Stop every device at once."),
    "clear": ("edge.cli.commands:clear", "Leave Aborted, once the cause is gone."),
    "reset": ("edge.cli.commands:reset", "Make ready for the next run."),
    "cancel": ("edge.cli.commands:cancel", "Take a plan out of the queue."),
    "resolve": ("edge.cli.commands:resolve", "Say what became of a step in doubt."),
    "set-inventory": ("edge.cli.commands:set_inventory", "Correct what stands where and what is in it."),
    "replay": ("edge.cli.commands:replay", "Send a run's documents again."),
    "stop-all": ("edge.cli.stop_all:stop_all", "Stop every device of a cell, without the daemon."),
    "runs": ("edge.cli.runs:runs", "What has run."),
    "schema": ("edge.cli.schema:schema", "JSON Schemas of the messages, and the AsyncAPI document."),
}
"""Name -> (module and attribute, what the list of commands says of it)."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended before it had an answer."""

UNBUILT = (
    "suspend",
    "unsuspend",
    "answer",
    "acknowledge",
    "shelve",
    "mode",
    "do",
    "lock",
    "keys",
    "report",
    "export",
    "audit",
    "calibrate",
    "bench",
)
"""Commands that the interface names and this version does not have: hidden, and refused clearly."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and never shows a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name in UNBUILT:
            return _unbuilt(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and name not in UNBUILT and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "`labedge --help` lists them."
            raise click.UsageError(f"There is no command {name}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,
        formatter: click.HelpFormatter,
    ) -> None:
        """The list of commands out of the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)  # click would say `Aborted!`, which means another thing here
            sys.exit(INTERRUPTED)

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except Exception as error:  # the last net: whatever happens, a person reads a sentence
            if os.environ.get("LABEDGE_DEBUG"):
                raise
            click.echo(_sentence(error), err=True)
            sys.exit(1)


def _unbuilt(name: str) -> click.Command:
    @click.command(
        name, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
    )
    @click.pass_context
    def refuse(ctx: click.Context) -> None:
        """Not built yet in this version."""
        raise click.UsageError(f"`labedge {name}` is not built yet in this version.", ctx)

    return refuse


def _sentence(error: Exception) -> str:
    from drivers.errors import DriverError
    from edge.errors import LabedgeError
    from protocols.errors import WireError

    if isinstance(error, LabedgeError | DriverError | WireError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        about = f"{error.filename}: " if error.filename else ""
        return f"{about}{error.strerror}."
    return (
        f"This is a mistake in labedge itself ({type(error).__name__}: {error}). "
        "Run it again with LABEDGE_DEBUG=1 and report what it prints."
    )


@click.group(
    "labedge",
    cls=LazyGroup,
    epilog="Example: labedge demo",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="labedge")
def main() -> None:
    """Run plans that come over MQTT on the instruments of a laboratory cell."""
