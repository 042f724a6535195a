"""MQTT settings, URLs, back-off and flows: pure, no broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import BadRequest, LinkDown
from protocols.mqtt import MqttSession, MqttSettings, parse_url
from protocols.mqtt_flow import BrokerLimits, Incoming, Outgoing, Publish
from protocols.mqtt_model import Backoff, refusal, tls_context
from protocols.mqtt_pipe import PACKET_LIMIT, Pipe


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("mqtt://localhost:1883", ("localhost", 1883, False)),
        ("mqtt://broker.lab", ("broker.lab", 1883, False)),
        ("mqtts://broker.lab", ("broker.lab", 8883, True)),
        ("mqtts://10.0.0.5:9000/", ("10.0.0.5", 9000, True)),
        ("mqtt://[::1]:1884", ("::1", 1884, False)),
    ],
)
def test_urls(url: str, parts: tuple[str, int, bool]) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:1883", "mqtt://HOST:PORT"),
        ("tcp://localhost:1883", "mqtt://HOST:PORT"),
        ("mqtt://", "lacks a host"),
        ("mqtt://host:0", "port is 0"),
        ("mqtt://host:99999", "not a number from 1 to 65535"),
        ("mqtt://host:abc", "not a number from 1 to 65535"),
        ("mqtt://host:1883/path", "more than host and port"),
        ("mqtt://user:secret@host", "password file"),
        ("http://user:secret@host", "broker URL"),
    ],
)
def test_urls_that_are_none(url: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)
    assert not refused.value.sent


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"client_id": ""}, "client id"),
        ({"keepalive_s": 0}, "keep-alive"),
        ({"password": "x"}, "user name"),
        ({"ca_file": "ca.pem"}, "not mqtts"),
    ],
)
def test_settings_that_cannot_work(more: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"client_id": "cell", "host": "broker", **more}
    with pytest.raises(BadRequest, match=says):
        MqttSettings(**given)


def test_the_password_is_never_shown() -> None:
    given = MqttSettings(client_id="cell", host="::1", username="cell-1", password="hush")
    assert "hush" not in repr(given)
    assert given.address == "mqtt://[::1]:1883"


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")

    def refused(**files: object) -> str:
        given: dict[str, Any] = {"client_id": "cell", "host": "broker", "tls": True, **files}
        with pytest.raises(BadRequest) as error:
            tls_context(MqttSettings(**given))
        return str(error.value)

    assert "absent.pem cannot be used: No such file" in refused(ca_file=tmp_path / "absent.pem")
    assert "broken.pem cannot be used" in refused(ca_file=broken)
    assert "broken.pem" in refused(cert_file=broken)
    assert "needs its certificate" in refused(key_file=broken)
    assert tls_context(MqttSettings(client_id="cell", host="broker")) is None


async def test_a_session_refuses_what_it_does_not_speak() -> None:
    with pytest.raises(BadRequest, match="QoS 2"):
        MqttSession(
            MqttSettings(client_id="cell", host="broker"),
            subscriptions=[("t", 2)],  # type: ignore[list-item]  # the mistake under test
            on_message=print,
            on_up=print,
            on_down=print,
        )


def test_refusals_say_what_to_do() -> None:
    modern = MqttSettings(client_id="cell", host="broker")
    old = MqttSettings(client_id="cell", host="broker", protocol="3.1.1", username="cell-1")
    assert refusal(0x84, "Unsupported", modern).endswith("set protocol to 3.1.1")
    assert refusal(0x84, "Unsupported", old).endswith("set protocol to 5")
    assert "user 'cell-1'" in refusal(0x86, "Bad user name or password", old)
    assert "without user name" in refusal(0x87, "Not authorized", modern)
    assert refusal(0x97, "Quota exceeded", modern) == "it refuses the connection: Quota exceeded"


def test_back_off_doubles_up_to_ten_seconds() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    waits = [backoff.after(lasted_s=0.0, taken_over=False) for _ in range(8)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(lasted_s=14.0, taken_over=False) == 10.0
    assert backoff.after(lasted_s=15.0, taken_over=False) == 0.2
    assert Backoff(chance=lambda: 1.0).after(lasted_s=0.0, taken_over=False) == 0.25


def test_rivals_for_one_id_slow_down() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    waits = [backoff.after(lasted_s=60.0, taken_over=True) for _ in range(6)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert backoff.after(lasted_s=300.0, taken_over=True) == 5.0


def test_acknowledgements_are_sent_in_the_order_of_arrival() -> None:
    sent: list[int] = []
    incoming = Incoming(sent.append)
    first, second, third = incoming.add(7), incoming.add(3), incoming.add(9)
    third()
    second()
    assert (sent, len(incoming)) == ([], 3)
    first()
    first()
    assert (sent, len(incoming)) == ([7, 3, 9], 0)
    fourth = incoming.add(1)
    incoming.fail()
    fourth()
    assert sent == [7, 3, 9]


class _Wire:
    """Takes publishes, numbering them, unless it is broken."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.broken = False

    def __call__(self, publish: Publish) -> int:
        if self.broken:
            raise LinkDown("cut", sent=False)
        self.sent.append(publish.payload)
        return len(self.sent)


def _publish(payload: bytes) -> Publish:
    return Publish("t", payload, False, None, asyncio.get_running_loop().create_future())


async def test_the_window_holds_back_and_keeps_the_order() -> None:
    wire = _Wire()
    outgoing = Outgoing(wire, window=2)
    one, two, three, four = (_publish(name) for name in (b"1", b"2", b"3", b"4"))
    for publish in (one, two, three, four):
        outgoing.add(publish)
    assert wire.sent == [b"1", b"2"]
    three.done.cancel()  # its caller gave up while it waited
    outgoing.answered(2, None)
    outgoing.send()
    assert wire.sent == [b"1", b"2", b"4"]
    assert two.done.done()
    assert not one.done.done()


async def test_a_publish_given_up_in_flight_keeps_its_place() -> None:
    wire = _Wire()
    outgoing = Outgoing(wire, window=1)
    one, two = _publish(b"1"), _publish(b"2")
    outgoing.add(one)
    outgoing.add(two)
    one.done.cancel()
    outgoing.send()
    assert wire.sent == [b"1"]
    outgoing.answered(1, None)
    outgoing.answered(1, None)  # a second PUBACK for the same id settles nothing
    outgoing.send()
    assert wire.sent == [b"1", b"2"]


async def test_what_may_have_left_is_told_when_the_connection_goes() -> None:
    outgoing = Outgoing(_Wire(), window=1)
    flying, waiting = _publish(b"1"), _publish(b"2")
    outgoing.add(flying)
    outgoing.add(waiting)
    outgoing.fail("cut")
    for publish, sent in ((flying, True), (waiting, False)):
        error = publish.done.exception()
        assert isinstance(error, LinkDown)
        assert error.sent is sent


async def test_a_refused_publish_and_one_that_cannot_leave() -> None:
    wire = _Wire()
    outgoing = Outgoing(wire)
    refused, stuck = _publish(b"1"), _publish(b"2")
    outgoing.add(refused)
    outgoing.answered(1, "Not authorized")
    wire.broken = True
    outgoing.add(stuck)
    assert isinstance(refused.done.exception(), BadRequest)
    error = stuck.done.exception()
    assert isinstance(error, LinkDown)
    assert not error.sent


class _Connack:
    ReceiveMaximum = 5
    MaximumPacketSize = 1000
    RetainAvailable = 0
    MaximumQoS = 0


def test_what_the_broker_allows() -> None:
    limits = BrokerLimits.of(_Connack())
    assert limits == BrokerLimits(in_flight=5, packet=1000, retain=False, qos1=False)
    assert BrokerLimits.of(object()) == BrokerLimits()
    limits.check("t", bytes(900), qos=0, retain=False)
    for given, says in (
        ({"payload": bytes(1000)}, "at most 1000 bytes"),
        ({"retain": True}, "no retained messages"),
        ({"qos": 1}, "QoS 0 only"),
        ({"topic": "a/+"}, "not a topic"),
        ({"topic": ""}, "not a topic"),
        ({"topic": "a" * 65536}, "not a topic"),
    ):
        values: dict[str, Any] = {"topic": "t", "payload": b"", "qos": 0, "retain": False, **given}
        with pytest.raises(BadRequest, match=says):
            limits.check(**values)


def test_the_pipe_is_a_socket_that_never_blocks() -> None:
    pipe = Pipe()
    with pytest.raises(BlockingIOError):
        pipe.recv(10)
    pipe.feed(b"abcdef")
    assert (pipe.recv(4), pipe.unread) == (b"abcd", 2)
    pipe.feed(bytes(70_000))
    assert pipe.recv(70_000) == b"ef" + bytes(69_998)
    pipe.feed(b"x")
    assert (pipe.recv(10), pipe.unread, pipe.unsent) == (b"\0\0x", 0, 0)
    with pytest.raises(ConnectionError):
        pipe.send(b"x")
    with pytest.raises(OSError, match="too large"):
        pipe.recv(PACKET_LIMIT + 1)
    assert pipe.oversize == PACKET_LIMIT + 1
