"""`--url` and what belongs to it: how a command reaches a cell over MQTT."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge.client import CellClient
from edge.errors import LabedgeError
from edge.link.localclient import CELL_VARIABLE, is_file


@dataclass(frozen=True)
class Broker:
    """The broker that was named, if any."""

    url: str | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    def client(self, cell: str | None, by: str) -> CellClient:
        """A client of the cell with this id."""
        assert self.url is not None
        cell = cell or os.environ.get(CELL_VARIABLE)
        if cell is None or is_file(cell):
            raise click.UsageError("Over MQTT a cell is named by its id: add --cell ID.")
        logging.getLogger().addHandler(logging.NullHandler())  # the client's own errors say it once
        return CellClient(
            self.url,
            cell,
            by=by,
            username=self.username,
            password=self._password(),
            ca_file=str(self.ca_file) if self.ca_file is not None else None,
        )

    def _password(self) -> str | None:
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LabedgeError(f"The password file {self.password_file} cannot be read: {error}.") from error


def broker_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --url, --username, --password-file and --ca-file; the command gets them as `broker`."""

    @functools.wraps(command)
    def gathered(
        *args: Any,
        url: str | None,
        username: str | None,
        password_file: Path | None,
        ca_file: Path | None,
        **rest: Any,
    ) -> None:
        if url is None and (username or password_file or ca_file):
            raise click.UsageError("--username, --password-file and --ca-file belong to a broker: add --url.")
        command(*args, broker=Broker(url, username, password_file, ca_file), **rest)

    file = click.Path(path_type=Path, dir_okay=False, exists=True)
    made: Callable[..., None] = gathered
    for option in (
        click.option("--ca-file", type=file, help="Certificate authority of an mqtts:// broker."),
        click.option("--password-file", type=file, help="File with the password for the broker."),
        click.option("--username", help="User name for the broker."),
        click.option("--url", metavar="URL", help="Talk over MQTT instead: mqtt://HOST:PORT or mqtts://…"),
    ):
        made = option(made)
    return made
