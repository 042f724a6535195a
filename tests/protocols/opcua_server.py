"""A small OPC UA server as a process of its own: `python -m tests.protocols.opcua_server PORT [shifted]`.

Prints `ready`, and serves until killed. `shifted` registers another namespace first, so that indices differ.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import asyncua.common.structures104 as structures
import asyncua.ua
from asyncua.server.server import Server

URI = "http://example.org/bench/"
NUMBERED = 1000

ua: Any = asyncua.ua


async def _add(_parent: Any, left: Any, right: Any) -> Any:
    if (left.VariantType, right.VariantType) != (ua.VariantType.UInt16, ua.VariantType.Float):
        return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
    return [ua.Variant(left.Value + right.Value, ua.VariantType.Double)]


async def _refuse(_parent: Any) -> Any:
    return ua.StatusCode(ua.StatusCodes.BadInvalidState)


async def _sleep(_parent: Any, seconds: Any) -> list[Any]:
    await asyncio.sleep(seconds.Value)
    return []


async def _join(_parent: Any, pairs: Any) -> list[Any]:
    text = ";".join(f"{pair.Key}={pair.Value}" for pair in pairs.Value or ())
    return [ua.Variant(text, ua.VariantType.String)]


def _argument(name: str, data_type: Any, rank: int = -1) -> Any:
    return ua.Argument(Name=name, DataType=data_type, ValueRank=rank)


async def _methods(space: int, device: Any, pair: Any) -> None:
    ids = ua.ObjectIds
    number, real, text = (ua.NodeId(kind) for kind in (ids.UInt16, ids.Float, ids.String))
    await device.add_method(
        space,
        "Add",
        _add,
        [_argument("Left", number), _argument("Right", real)],
        [_argument("Sum", ua.NodeId(ids.Double))],
    )
    await device.add_method(space, "Refuse", _refuse, [], [])
    await device.add_method(space, "Sleep", _sleep, [_argument("Seconds", ua.NodeId(ids.Double))], [])
    await device.add_method(space, "Join", _join, [_argument("Pairs", pair, 1)], [_argument("Text", text)])


async def serve(port: int, shifted: bool) -> None:
    server: Any = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    if shifted:
        await server.register_namespace("urn:another")
    space = await server.register_namespace(URI)
    pair, _ = await structures.new_struct(
        server,
        space,
        "KeyValueType",
        [
            structures.new_struct_field("Key", ua.VariantType.String),
            structures.new_struct_field("Value", ua.VariantType.String),
        ],
    )
    await structures.new_struct(
        server,
        space,
        "Mixed",
        [
            structures.new_struct_field("Count", ua.VariantType.UInt16),
            structures.new_struct_field("Levels", ua.VariantType.Double, array=True),
        ],
    )
    await server.load_data_type_definitions()
    device = await server.nodes.objects.add_object(space, "Device")
    for name, value in (
        ("Real", ua.Variant(1.5, ua.VariantType.Float)),
        ("Small", ua.Variant(7, ua.VariantType.Int16)),
        ("Label", ua.Variant(ua.LocalizedText("hello"), ua.VariantType.LocalizedText)),
        ("Series", ua.Variant([1.0, 2.0], ua.VariantType.Double)),
        ("Range", ua.Variant(ua.Range(Low=0.0, High=4.0))),
        ("Pointer", ua.Variant(ua.NodeId(NUMBERED, space), ua.VariantType.NodeId)),
    ):
        variable = await device.add_variable(space, name, value)
        await variable.set_writable()
    fixed = await device.add_variable(ua.NodeId(NUMBERED, space), ua.QualifiedName("Fixed", space), 3)
    await fixed.write_value(3)
    many = await server.nodes.objects.add_folder(space, "Many")
    for number in range(50):
        await many.add_variable(space, f"v{number}", number)
    await _methods(space, device, pair.nodeid)
    async with server:
        sys.stdout.write(f"ready {pair.nodeid.Identifier!s}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(int(sys.argv[1]), "shifted" in sys.argv))
