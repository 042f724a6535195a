"""MQTT sessions against a broker that misbehaves, byte by byte. Packets are from MQTT 5.0, chapter 3."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from protocols import mqtt
from protocols.errors import BadRequest, LinkDown, LinkTimeout
from protocols.mqtt import MqttSession
from protocols.mqtt_paho import UNACKED_LIMIT
from tests.protocols.mqtt_peer import Peer, running, settings

CONNACK = bytes.fromhex("20 03 00 00 00")
SUBACK = bytes.fromhex("90 04 00 01 00 01")  # packet id 1, granted QoS 1


class Wire:
    """The broker's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def packet(self) -> tuple[int, bytes]:
        """(first byte, body) of the client's next packet; (0, b"") at the end."""
        try:
            first = (await self.reader.readexactly(1))[0]
            size, shift = 0, 0
            while True:
                digit = (await self.reader.readexactly(1))[0]
                size |= (digit & 0x7F) << shift
                shift += 7
                if digit < 0x80:
                    return first, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""

    async def expect(self, kind: int) -> bytes:
        while True:
            first, body = await self.packet()
            assert first != 0, "the client went away"
            if first & 0xF0 == kind:
                return body

    async def goodbye(self) -> None:
        """Hear everything and answer nothing until the client leaves."""
        while (await self.packet())[0] not in (0, 0xE0):
            pass


Script = Callable[[Wire], Awaitable[None]]


@contextlib.asynccontextmanager
async def broker(*scripts: Script) -> AsyncIterator[int]:
    """Serve the first connection by the first script and so on; the last one serves all that follow."""
    waiting = list(scripts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        with contextlib.suppress(ConnectionError, AssertionError):
            await script(Wire(reader, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def accept(wire: Wire, connack: bytes = CONNACK) -> None:
    await wire.expect(0x10)
    wire.send(connack)


async def silent(wire: Wire) -> None:
    await accept(wire)
    await wire.goodbye()


async def test_no_puback_by_the_deadline() -> None:
    async with broker(silent) as port, running(Peer(settings(port, "cell"))) as cell:
        with pytest.raises(LinkTimeout, match=r"did not confirm the message on 't' within 0\.05 s") as late:
            await cell.session.publish("t", b"1", qos=1, timeout_s=0.05)
        assert late.value.sent


async def test_the_brokers_receive_maximum_is_kept() -> None:
    seen: list[bytes] = []
    full = asyncio.Event()

    async def two_at_a_time(wire: Wire) -> None:
        await accept(wire, bytes.fromhex("20 06 00 00 03 21 00 02"))
        for _ in range(2):
            seen.append(await wire.expect(0x30))
        full.set()
        seen.append(await wire.expect(0x30))

    async with broker(two_at_a_time) as port, running(Peer(settings(port, "cell"))) as cell:
        publishes = [
            asyncio.create_task(cell.session.publish("t", b"%d" % number, qos=1, timeout_s=30))
            for number in range(2)
        ]
        await full.wait()
        with pytest.raises(LinkTimeout) as late:
            await cell.session.publish("t", b"2", qos=1, timeout_s=0.05)
        assert not late.value.sent
        assert len(seen) == 2
        for task in publishes:
            task.cancel()
        await asyncio.wait(publishes)


async def test_in_flight_publishes_hear_that_the_connection_went() -> None:
    async def cut(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x30)

    async with broker(cut, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        with pytest.raises(LinkDown, match="The broker was lost") as down:
            await cell.session.publish("t", b"1", qos=1)
        assert down.value.sent


async def test_what_would_end_the_connection_is_refused_before() -> None:
    async def small(wire: Wire) -> None:
        await accept(wire, bytes.fromhex("20 0a 00 00 07 27 00 00 10 00 25 00"))  # 4096 bytes, no retain
        await wire.goodbye()

    async with broker(small) as port, running(Peer(settings(port, "cell"))) as cell:
        with pytest.raises(BadRequest, match="at most 4096 bytes") as refused:
            await cell.session.publish("t", bytes(5000), qos=1)
        assert not refused.value.sent
        with pytest.raises(BadRequest, match="no retained messages"):
            await cell.session.publish("t", b"1", qos=1, retain=True)
        with pytest.raises(BadRequest, match="not a topic"):
            cell.session.publish_soon("t/#", b"1")
        await cell.session.publish("t", b"1", qos=0)
        assert cell.downs == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("20 03 00 84 00", "does not speak MQTT 5; set protocol to 3.1.1"),
        ("20 03 00 87 00", "without user name"),
        ("20 03 00 97 00", "Quota exceeded"),
        ("", "instead of answering CONNECT; if it does not speak MQTT 5, set protocol to 3.1.1"),
        ("20 02 00 00", "malformed|broke"),
        ("ff ff ff ff ff ff", "broke"),
        ("48 54 54 50 2f 31 2e 31 20 34 30 30 0d 0a", "broke|malformed|instead of answering"),
    ],
)
async def test_a_broker_that_will_not_have_us(answer: str, says: str) -> None:
    async def refuse(wire: Wire) -> None:
        await wire.expect(0x10)
        wire.send(bytes.fromhex(answer))

    async with broker(refuse, silent) as port, running(Peer(settings(port, "cell")), up=False) as cell:
        await cell.until(lambda: len(cell.downs) > 0)
        assert any(part in cell.downs[0] for part in says.split("|")), cell.downs[0]
        await cell.until(lambda: cell.ups == 1)


async def test_one_reason_is_told_once_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="protocols.mqtt")

    async def full(wire: Wire) -> None:
        await wire.expect(0x10)
        wire.send(bytes.fromhex("20 03 00 97 00"))

    async def down(wire: Wire) -> None:
        await wire.expect(0x10)
        wire.send(bytes.fromhex("20 03 00 88 00"))

    async with broker(full, full, down, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        assert [reason.rpartition(": ")[2] for reason in cell.downs] == [
            "Quota exceeded",
            "Server unavailable",
        ]
    levels = [record.levelno for record in caplog.records if "Trying again" in record.getMessage()]
    assert levels == [logging.WARNING, logging.INFO]


async def test_a_broker_that_reads_nothing_for_a_while() -> None:
    stalled, go = asyncio.Event(), asyncio.Event()
    count, size = 12, 1_000_000

    async def sleepy(wire: Wire) -> None:
        await accept(wire)
        stalled.set()
        await go.wait()
        for _ in range(count):
            body = await wire.expect(0x30)
            wire.send(b"\x40\x02" + body[3:5])
        await wire.goodbye()

    async with broker(sleepy) as port, running(Peer(settings(port, "cell"))) as cell:
        await stalled.wait()
        publishes = [asyncio.create_task(cell.session.publish("t", bytes(size), qos=1)) for _ in range(count)]
        await asyncio.sleep(0)
        connection = cell.session._connection
        assert connection is not None
        before = connection._pipe.unsent
        assert before > 0
        for _ in range(100):
            cell.session.publish_soon("t", bytes(size))
        assert connection._pipe.unsent == before
        go.set()
        await asyncio.gather(*publishes)
        assert cell.downs == []


async def test_oversize_is_logged_when_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bytes] = []

    async def large(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x80)
        wire.send(SUBACK + _publish(9, bytes(200)))
        answers.append(await wire.expect(0x40))
        wire.send(_publish(10, b"small"))
        await wire.goodbye()

    async with broker(large) as port:
        cell = Peer(settings(port, "cell", max_payload=100), [("t", 1)])
        cell.session.on_oversize = MqttSession._log_oversize.__get__(cell.session)
        async with running(cell):
            assert await cell.hears(1) == [b"small"]
    assert answers[0][:2] == b"\x00\x09"
    assert "dropped a message of 200 bytes on 't'; at most 100 are taken" in caplog.text


async def test_a_broker_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "OPEN_S", 0.1)

    async def mute(wire: Wire) -> None:
        await wire.goodbye()

    async with broker(mute, silent) as port, running(Peer(settings(port, "cell")), up=False) as cell:
        await cell.until(lambda: len(cell.downs) > 0)
        assert "did not answer within 0.1 s" in cell.downs[0]


async def test_a_refused_subscription_is_no_connection() -> None:
    async def refuse(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x80)
        wire.send(bytes.fromhex("90 04 00 01 00 87"))
        await wire.goodbye()

    async with broker(refuse) as port:
        peer = Peer(settings(port, "cell"), [("secret/#", 1)])
        async with running(peer, up=False):
            await peer.until(lambda: len(peer.downs) > 0)
            assert "refuses the subscription to 'secret/#': Not authorized" in peer.downs[0]
            assert peer.ups == 0


async def test_garbage_in_the_middle_costs_one_connection() -> None:
    async def babble(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x30)
        wire.send(bytes.fromhex("32 03 00 ff 61"))  # a PUBLISH whose topic is longer than the packet
        await wire.goodbye()

    async with broker(babble, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        with pytest.raises(LinkDown):
            await cell.session.publish("t", b"1", qos=1)
        await cell.until(lambda: cell.ups == 2)
        assert cell.received == []


async def test_a_taken_over_session_says_so() -> None:
    async def displace(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x30)
        wire.send(bytes.fromhex("e0 02 8e 00"))

    async with broker(displace, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        cell.session.publish_soon("t", b"1")
        await cell.until(lambda: len(cell.downs) == 1)
        assert "another client uses the id 'cell'" in cell.downs[0]


async def test_a_disconnect_with_a_reason_is_told() -> None:
    async def shut(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x30)
        wire.send(bytes.fromhex("e0 02 8b 00"))

    async with broker(shut, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        cell.session.publish_soon("t", b"1")
        await cell.until(lambda: cell.ups == 2)
        assert "it ended the session: Server shutting down" in cell.downs[0]


async def test_a_packet_beyond_all_bounds_is_not_taken() -> None:
    async def flood(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x30)
        wire.send(bytes.fromhex("32 ff ff ff 7f 00 01 74"))  # announces 268,435,455 bytes

    async with broker(flood, silent) as port, running(Peer(settings(port, "cell"))) as cell:
        cell.session.publish_soon("t", b"1")
        await cell.until(lambda: len(cell.downs) == 1)
        assert "a packet of 268435455 bytes" in cell.downs[0]


def _publish(mid: int, payload: bytes) -> bytes:
    body = b"\x00\x01t" + mid.to_bytes(2, "big") + b"\x00" + payload
    size = len(body)
    return bytes([0x32, size & 0x7F | 0x80, size >> 7]) + body if size > 127 else bytes([0x32, size]) + body


async def test_a_broker_without_bounds_is_held_back_and_nothing_is_lost() -> None:
    count = 4 * UNACKED_LIMIT
    pubacks: list[bytes] = []
    done = asyncio.Event()

    async def flood(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x80)
        wire.send(SUBACK)
        for number in range(1, count + 1):
            wire.send(_publish(number, b"%d" % number + bytes(8192)))
        while len(pubacks) < count:
            pubacks.append(await wire.expect(0x40))
        done.set()
        await wire.expect(0xE0)

    async with broker(flood) as port:
        peer = Peer(settings(port, "cell"), [("t", 1)], hold=True)
        async with running(peer) as cell:
            await cell.hears(UNACKED_LIMIT)
            connection = cell.session._connection
            assert connection is not None
            settled = 0
            while settled < count:
                await cell.hears(settled + 1)
                assert len(cell.received) - settled <= UNACKED_LIMIT + 32  # packets of one reading step
                cell.received[settled].ack()
                settled += 1
            async with asyncio.timeout(20):
                await done.wait()
            numbers = [int(message.payload.rstrip(b"\0")) for message in cell.received]
            assert numbers == list(range(1, count + 1))
            assert [int.from_bytes(body[:2], "big") for body in pubacks] == numbers


async def test_a_flood_without_acknowledgement_leaves_the_loop_its_turns() -> None:
    count = 5000

    async def flood(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x80)
        wire.send(SUBACK)
        wire.send(b"".join(b"\x30\x05\x00\x01t\x00x" for _ in range(count)))
        await wire.expect(0xE0)

    async with broker(flood) as port, running(Peer(settings(port, "cell"), [("t", 1)])) as cell:
        turns = 0
        while len(cell.received) < count:
            before = len(cell.received)
            await asyncio.sleep(0)
            turns += len(cell.received) > before
        assert turns > 3


async def test_a_topic_that_is_not_utf8_is_dropped_and_acknowledged() -> None:
    answers: list[bytes] = []

    async def odd(wire: Wire) -> None:
        await accept(wire)
        await wire.expect(0x80)
        wire.send(SUBACK)
        wire.send(bytes.fromhex("32 06 00 01 ff 00 05 00"))
        answers.append(await wire.expect(0x40))
        wire.send(_publish(6, b"good"))
        await wire.expect(0xE0)

    async with broker(odd) as port, running(Peer(settings(port, "cell"), [("t", 1)])) as cell:
        assert await cell.hears(1) == [b"good"]
        assert answers[0][:2] == b"\x00\x05"


async def test_the_goodbye_is_sent_and_the_end_is_bounded() -> None:
    goodbyes: list[bytes] = []

    async def stays(wire: Wire) -> None:
        await accept(wire)
        goodbyes.append(await wire.expect(0xE0))
        await wire.reader.read()  # never closes first

    async with broker(stays) as port:
        async with asyncio.timeout(10), running(Peer(settings(port, "cell"))) as cell:
            pass
        assert len(goodbyes) == 1
        assert not cell.session.connected
        assert cell.downs == []


async def test_a_session_runs_once() -> None:
    async with broker(silent) as port, running(Peer(settings(port, "cell"))) as cell:
        with pytest.raises(BadRequest, match="running already"):
            await cell.session.run()


async def test_a_name_that_resolves_to_nothing() -> None:
    given = mqtt.MqttSettings(client_id="cell", host="no-such-host.invalid")
    async with running(Peer(given), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert "'no-such-host.invalid' cannot be resolved" in cell.downs[0]
