"""`labedge scan`: which serial ports there are."""

from __future__ import annotations

import click
import msgspec

from protocols.serial_port import SerialDevice, list_ports


@click.command(epilog="Example: labedge scan --json")
@click.option("--probe", is_flag=True, help="Ask what is connected. Not built yet in this version.")
@click.option("--json", "as_json", is_flag=True, help="Print the ports as JSON.")
def scan(probe: bool, as_json: bool) -> None:
    """List the serial ports of this machine. Opens none: opening a port resets some boards."""
    if probe:
        raise click.UsageError(
            "`--probe` is not built yet in this version; leave it out to list the ports, "
            "and ask a device with `labedge check CELL.yaml --connect`."
        )
    ports = list_ports()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(ports)).decode())
    elif not ports:
        click.echo("There are no serial ports; is the adapter plugged in?")
    else:
        click.echo("\n".join(_line(port) for port in ports))


def _line(port: SerialDevice) -> str:
    usb = f"{port.vid}:{port.pid}" if port.vid else ""
    serial = f"SN {port.serial}" if port.serial else ""
    parts = (port.by_id or port.device, port.device if port.by_id else "", usb, serial, port.description)
    return "  ".join(part for part in parts if part)
