"""The balance driver: golden lines, and a scripted balance on a real PTY."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import DriverError, Fault, Lost, Refused
from drivers.sensors import mt_sics as module
from drivers.sensors.mt_sics import MtSics, MtSicsOptions, Settle, Weigh, Weight, encode, parse_weight
from protocols.lines import LineDecoder
from protocols.links import Links
from tests.drivers.scripted import ScriptedPeer, Try, Turn

VECTORS = yaml.safe_load(
    (Path(__file__).parents[1] / "data" / "vectors" / "mettler_mtsics.yaml").read_text()
)["vectors"]
SERIAL = b'I4 A "1234567"\r\n'
CANCEL = Turn(b"@\r\n", SERIAL)

GOLDEN_WEIGHTS = {
    "mettler_mtsics-02": Weight("S", 100.0),
    "mettler_mtsics-10": Weight("D", 129.07),
    "mettler_mtsics-18": Weight("S", 100.0),
    "mettler_mtsics-20": Weight("A", 0.0),
}


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_golden_lines(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["hex"])
    (line,) = LineDecoder().feed(wire)
    assert isinstance(line, bytes)
    if vector["direction"] == "host->device":
        assert encode(line.decode()) == wire
    else:
        assert parse_weight(line.decode()) == GOLDEN_WEIGHTS.get(vector["id"])


@pytest.mark.parametrize(
    ("line", "mass_g"),
    [
        ("S S     14.256 g", 14.256),
        ("S S    -14.256 g", -14.256),
        ("S S     14.25  g", 14.25),
        ("S S    1.25013 kg", 1250.13),
        ("S D     250.13 mg", 0.25013),
        ("S D     250.13 µg", 0.00025013),
    ],
)
def test_weights_in_grams(line: str, mass_g: float) -> None:
    weight = parse_weight(line)
    assert weight is not None
    assert weight.mass_g == pytest.approx(mass_g, rel=1e-12)


@pytest.mark.parametrize(
    "line",
    [
        "S S    100.00 g",
        "S S     100.00",
        "S S     10x.00 g",
        "S S     1.0.00 g",
        "S S            g",
        "S I",
        "",
        "\x00S S     100.00 g",
    ],
)
def test_a_line_of_another_form_is_no_weight(line: str) -> None:
    assert parse_weight(line) is None


@given(st.text(max_size=40))
def test_any_line_is_a_weight_a_fault_or_nothing(line: str) -> None:
    try:
        weight = parse_weight(line)
    except Fault:
        return
    assert weight is None or isinstance(weight.mass_g, float)


def test_a_unit_that_is_no_mass_in_grams_is_told() -> None:
    with pytest.raises(Fault, match="weighs in 'ct': set its host unit"):
        parse_weight("S S     500.00 ct")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("S S  Error 10b", "error 10 of its weigh module: EEPROM"),
        ("S S   Error 1t", "error 1 of its terminal: boot"),
    ],
)
def test_an_error_in_place_of_the_weight(line: str, says: str) -> None:
    with pytest.raises(Fault, match=says):
        parse_weight(line)


def make(peer: ScriptedPeer, links: Links, **keys: Any) -> MtSics:
    options = msgspec.convert({"driver": "mt-sics", "port": peer.path, **keys}, MtSicsOptions)
    return MtSics("scale", options, links)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_S", 0.15)
    monkeypatch.setattr(module, "SLICE_S", 0.15)


@pytest_asyncio.fixture
async def scale(peer: ScriptedPeer, links: Links) -> AsyncIterator[MtSics]:
    """A balance that has been cleared by a first command."""
    device = make(peer, links)
    await device.open()
    peer.expect([CANCEL, Turn(b"SI\r\n", b"S D       0.00 g\r\n")])
    await device.read()
    yield device
    await device.close()


async def test_weigh(peer: ScriptedPeer, scale: MtSics) -> None:
    attempt = Try(peer)
    before = bytes(peer.received)
    peer.expect([Turn(b"S\r\n", b"S S     100.00 g\r\n")])
    weighed = await scale.weigh(Weigh(), attempt)
    assert (weighed.mass_g, weighed.stable) == (100.0, True)
    assert attempt.frames == [b"S\r\n"]
    assert attempt.on_wire == before
    peer.expect([Turn(b"SI\r\n", b"S D     129.07 g\r\n")])
    weighed = await scale.weigh(Weigh(stable=False), Try())
    assert (weighed.mass_g, weighed.stable) == (129.07, False)


async def test_zero_and_tare(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect([Turn(b"Z\r\n", b"Z A\r\n"), Turn(b"T\r\n", b"T S     100.00 g\r\n")])
    await scale.zero(Settle(), Try())
    assert (await scale.tare(Settle(), Try())).tare_g == 100.0


async def test_lines_that_announce_more_are_not_the_answer(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect([Turn(b"Z\r\n", b"Z B\r\n\r\nZ A\r\n"), Turn(b"SI\r\n", b"S S       0.00 g\r\n")])
    await scale.zero(Settle(), Try())
    assert (await scale.read()).stable


async def test_identity(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect(
        [
            Turn(b"I2\r\n", b'I2 A "ICS469 OU 60.18 kg"\r\n'),
            Turn(b"I4\r\n", SERIAL),
            Turn(b"I3\r\n", b"ES\r\n"),
        ]
    )
    assert str(await scale.identify()) == "ICS469 OU 60.18 kg, SN 1234567"


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (b"S +", Fault, "overloaded"),
        (b"S -", Fault, "underloaded"),
        (b"S I", Fault, "busy, or did not come to rest"),
        (b"S S  Error 15b", Fault, "adjustment"),
        (b"S S       1.00 lb", Fault, "host unit"),
        (b"ES", Refused, "does not know the command S"),
        (b"EL", Refused, "cannot carry out S"),
        (b"S L", Refused, "cannot carry out S"),
    ],
)
async def test_what_the_balance_says_instead_of_a_weight(
    peer: ScriptedPeer, scale: MtSics, reply: bytes, kind: type[DriverError], says: str
) -> None:
    # The next command follows without a cancel: the balance did answer.
    peer.expect([Turn(b"S\r\n", reply + b"\r\n"), Turn(b"SI\r\n", b"S D       0.00 g\r\n")])
    with pytest.raises(kind, match=says):
        await scale.weigh(Weigh(), Try())
    await scale.read()


@pytest.mark.parametrize(
    "noise",
    [b"", b"S S     10", b"\xff\x00S S     100.00 g\r\n", b"S S    100.00 g\r\n", b"S A\r\n", SERIAL],
    ids=["silence", "half", "garbage-before", "a-digit-lost", "no-weight", "it-was-switched-on"],
)
async def test_an_answer_that_cannot_be_believed_is_cancelled_and_asked_again(
    peer: ScriptedPeer, scale: MtSics, noise: bytes
) -> None:
    peer.expect([Turn(b"S\r\n", noise), CANCEL, Turn(b"S\r\n", b"S S     100.00 g\r\n")])
    assert (await scale.weigh(Weigh(), Try())).mass_g == 100.0


async def test_a_command_damaged_on_its_way_is_sent_again(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect([Turn(b"S\r\n", b"ET\r\n"), Turn(b"S\r\n", b"S S     100.00 g\r\n")])
    assert (await scale.weigh(Weigh(), Try())).mass_g == 100.0


async def test_a_late_weight_is_not_taken_for_the_next(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect([Turn(b"S\r\n"), Turn(b"@\r\n", b"S S       1.00 g\r\n" + SERIAL)])
    peer.expect([Turn(b"S\r\n", b"S S       2.00 g\r\n")])
    assert (await scale.weigh(Weigh(), Try())).mass_g == 2.0


async def test_after_a_cancelled_weighing_the_balance_is_cleared_first(
    peer: ScriptedPeer, scale: MtSics
) -> None:
    peer.expect([Turn(b"S\r\n")])
    weighing = asyncio.ensure_future(scale.weigh(Weigh(), Try()))
    await peer.followed()
    weighing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await weighing
    peer.expect([Turn(b"@\r\n", b"S S       1.00 g\r\n" + SERIAL), Turn(b"SI\r\n", b"S S       2.00 g\r\n")])
    assert (await scale.read()).mass_g == 2.0


async def test_a_pan_that_never_comes_to_rest(
    peer: ScriptedPeer, scale: MtSics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_S", 10.0)
    peer.expect([Turn(b"S\r\n"), CANCEL])
    with pytest.raises(Fault, match=r"not come to rest within 0\.5 s"):
        await scale.weigh(Weigh(timeout_s=0.5), Try())


async def test_a_balance_that_has_gone(peer: ScriptedPeer, scale: MtSics) -> None:
    peer.expect([Turn(b"S\r\n"), *[Turn(b"@\r\n")] * 3])
    with pytest.raises(Lost, match="scale") as lost:
        await scale.weigh(Weigh(), Try())
    assert lost.value.sent


async def test_a_stop_sends_nothing(peer: ScriptedPeer, scale: MtSics) -> None:
    scale.halt()
    assert await scale.halted()


async def test_a_port_that_is_not_there(peer: ScriptedPeer, links: Links) -> None:
    scale = make(peer, links, port="/dev/no-such-port")
    with pytest.raises(Lost, match="no-such-port") as lost:
        await scale.open()
    assert not lost.value.sent


async def test_a_balance_that_was_never_opened(peer: ScriptedPeer, links: Links) -> None:
    with pytest.raises(Lost, match="not been opened"):
        await make(peer, links).read()


async def test_over_tcp(links: Links) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {b"@\r\n": SERIAL, b"SI\r\n": b"S S       5.00 g\r\n"}
        while line := await reader.readline():
            writer.write(answers[line])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = MtSicsOptions(driver="mt-sics", port=f"socket://127.0.0.1:{port}")
        scale = MtSics("scale", options, links)
        await scale.open()
        assert (await scale.read()).mass_g == 5.0
        await links.close()
