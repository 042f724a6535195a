"""`labedge schema`: JSON Schemas of the payloads, and the AsyncAPI document."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click
import msgspec

from edge import __version__
from edge.link.interface import asyncapi, names
from edge.link.interface import schema as schema_of


@click.command(epilog="Example: labedge schema Plan")
@click.argument("name", required=False)
@click.option("--asyncapi", "whole", is_flag=True, help="Print the AsyncAPI 3.0 document of all topics.")
def schema(name: str | None, whole: bool) -> None:
    """Print the JSON Schema of the payload NAME, or list the payloads.

    They are generated from the code that reads and writes the payloads.
    """
    if whole:
        if name is not None:
            raise click.UsageError("--asyncapi is about all payloads; leave the name out.")
        _print(asyncapi(__version__))
    elif name is None:
        click.echo("\n".join(names()))
    elif name in names():
        _print(schema_of(name))
    else:
        near = get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "`labedge schema` lists them."
        raise click.UsageError(f"There is no payload {name}; {hint}")


def _print(data: dict[str, Any]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(data)))
