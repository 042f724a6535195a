"""MQTT sessions against real brokers: mosquitto and the embedded one, MQTT 5 and 3.1.1."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from edge.broker import EmbeddedBroker
from protocols.errors import BadRequest, LinkDown
from protocols.mqtt import MqttSettings, Will
from tests.brokers import MosquittoFactory
from tests.protocols.mqtt_peer import Peer, running, settings

Version = Literal["5", "3.1.1"]
Connect = Callable[[str], MqttSettings]


@pytest.fixture(params=["mosquitto-5", "mosquitto-3.1.1", "embedded-5", "embedded-3.1.1"])
def client(request: pytest.FixtureRequest) -> Connect:
    """`client(id)` gives the settings of a client of one of the brokers."""
    kind, _, version = str(request.param).partition("-")
    protocol: Version = "5" if version == "5" else "3.1.1"
    if kind == "mosquitto":
        factory: MosquittoFactory = request.getfixturevalue("mosquitto")
        port = factory().port
    else:
        broker: EmbeddedBroker = request.getfixturevalue("embedded")
        port = broker.port if protocol == "5" else broker.port_311
    return lambda client_id: settings(port, client_id, protocol)


async def test_many_publishes_at_once_arrive_in_order(client: Connect) -> None:
    count = 500
    async with (
        running(Peer(client("planner"))) as planner,
        running(Peer(client("cell"), [("t/#", 1)])) as cell,
    ):
        sent = [b"%d" % number for number in range(count)]
        await asyncio.gather(*(planner.session.publish("t/x", payload, qos=1) for payload in sent))
        assert await cell.hears(count) == sent


async def test_what_is_not_acknowledged_comes_again(client: Connect) -> None:
    async with (
        running(Peer(client("planner"))) as planner,
        running(Peer(client("cell"), [("t", 1)], hold=True)) as cell,
    ):
        for payload in (b"one", b"two", b"three"):
            await planner.session.publish("t", payload, qos=1)
        await cell.hears(3)
        cell.received[0].ack()
        await planner.session.publish("t", b"four", qos=1)  # the PUBACK is on its way before this
        await cell.hears(4)
    async with running(Peer(client("cell"), [("t", 1)])) as again:
        assert await again.hears(3) == [b"two", b"three", b"four"]
    async with (
        running(Peer(client("cell"), [("t", 1)])) as third,
        running(Peer(client("planner"))) as planner,
    ):
        await planner.session.publish("t", b"last", qos=1)
        assert await third.hears(1) == [b"last"]


async def test_acknowledgements_leave_in_the_order_of_arrival(client: Connect) -> None:
    # rumqttd ends the session of a client that acknowledges out of order
    async with running(Peer(client("planner"))) as planner:
        async with running(Peer(client("cell"), [("t", 1)], hold=True)) as cell:
            for payload in (b"one", b"two", b"three"):
                await planner.session.publish("t", payload, qos=1)
            await cell.hears(3)
            for message in reversed(cell.received):
                message.ack()
                message.ack()
            await planner.session.publish("t", b"four", qos=1)
            await cell.hears(4)
            cell.received[3].ack()
            await planner.session.publish("t", b"five", qos=1)
            await cell.hears(5)
            assert cell.downs == []
        async with running(Peer(client("cell"), [("t", 1)])) as again:
            assert await again.hears(1) == [b"five"]


async def test_an_acknowledgement_from_an_earlier_connection_settles_nothing(client: Connect) -> None:
    async with running(Peer(client("planner"))) as planner:
        async with running(Peer(client("cell"), [("t", 1)], hold=True)) as cell:
            await planner.session.publish("t", b"one", qos=1)
            await cell.hears(1)
        async with running(Peer(client("cell"), [("t", 1)], hold=True)) as later:
            await later.hears(1)
            cell.received[0].ack()
            await planner.session.publish("t", b"two", qos=1)
            await later.hears(2)
        async with running(Peer(client("cell"), [("t", 1)])) as last:
            assert await last.hears(2) == [b"one", b"two"]


async def test_retained_and_unconfirmed_messages(client: Connect) -> None:
    async with running(Peer(client("cell"))) as cell:
        await cell.session.publish("status", b"up", qos=1, retain=True)
        async with running(Peer(client("watcher"), [("status", 1), ("soon", 0)])) as watcher:
            await watcher.hears(1)
            assert watcher.received[0].retain
            cell.session.publish_soon("soon", b"reading")
            assert await watcher.hears(2) == [b"up", b"reading"]
            assert watcher.received[1].qos == 0


_VICTIM = """
import asyncio, sys
from protocols.mqtt import MqttSession, MqttSettings, Will
given = MqttSettings(client_id="victim", host="127.0.0.1", port=int(sys.argv[1]), protocol=sys.argv[2])
def up(): print("up", flush=True)
will = Will("status", b"gone", 1, True)
session = MqttSession(given, subscriptions=[], on_message=print, on_up=up, on_down=print, will=will)
asyncio.run(session.run())
"""


async def test_the_will_is_sent_when_the_process_is_killed(client: Connect) -> None:
    given = client("watcher")
    root = Path(__file__).parents[2]
    async with running(Peer(given, [("status", 1)])) as watcher:
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _VICTIM, str(given.port), given.protocol),
            cwd=root,
            stdout=asyncio.subprocess.PIPE,
        )
        assert victim.stdout is not None
        async with asyncio.timeout(20):
            assert await victim.stdout.readline() == b"up\n"
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
        assert await watcher.hears(1) == [b"gone"]


async def test_the_will_is_not_sent_after_a_goodbye(client: Connect) -> None:
    async with running(Peer(client("watcher"), [("status", 1)])) as watcher:
        async with running(Peer(client("cell"), will=Will("status", b"gone"))) as cell:
            await cell.session.publish("status", b"bye", qos=1)
        async with running(Peer(client("other"))) as other:
            await other.session.publish("status", b"later", qos=1)
        assert await watcher.hears(2) == [b"bye", b"later"]


async def test_oversize_is_acknowledged_and_reported(client: Connect) -> None:
    async with running(Peer(client("planner"))) as planner:
        async with running(Peer(client("cell"), [("t/#", 1)])) as cell:
            await planner.session.publish("t/big", bytes(1_200_000), qos=1)
            await planner.session.publish("t/small", b"after", qos=1)
            assert await cell.hears(1) == [b"after"]
            assert cell.oversize == [("t/big", 1_200_000)]
        async with running(Peer(client("cell"), [("t/#", 1)])) as again:
            await planner.session.publish("t/small", b"last", qos=1)
            assert await again.hears(1) == [b"last"]
            assert again.oversize == []


async def test_a_large_payload_arrives_whole(client: Connect) -> None:
    payload = bytes(range(256)) * 4096
    async with running(Peer(client("cell"), [("t", 1)])) as cell:
        await cell.session.publish("t", payload, qos=1)
        assert await cell.hears(1) == [payload]


async def test_a_failing_handler_loses_one_message_and_no_more(
    client: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    cell = Peer(client("cell"), [("t", 1)])
    remember = cell.session._on_message

    def handler(message: object) -> None:
        if getattr(message, "payload", b"") == b"bad":
            raise ZeroDivisionError
        remember(message)  # type: ignore[arg-type]  # a Message, seen as object to be read loosely

    cell.session._on_message = handler
    async with running(cell):
        await cell.session.publish("t", b"bad", qos=1)
        await cell.session.publish("t", b"good", qos=1)
        assert await cell.hears(1) == [b"good"]
    assert "could not be handled" in caplog.text


async def test_nagle_is_off(client: Connect) -> None:
    async with running(Peer(client("cell"))) as cell:
        connection = cell.session._connection
        assert connection is not None
        transport = connection._pipe.transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_response_topic_and_correlation_data_travel(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    async with running(Peer(settings(broker.port, "cell"), [("ask", 1), ("answer", 1)])) as cell:
        asker = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", "-V", "mqttv5", "-h", broker.host, "-p", str(broker.port), "-q", "1"),
            *("-t", "ask", "-m", "x", "-D", "publish", "response-topic", "answer"),
            *("-D", "publish", "correlation-data", "c-7"),
        )
        assert await asker.wait() == 0
        await cell.hears(1)
        asked = cell.received[0]
        assert (asked.response_topic, asked.correlation_data) == ("answer", b"c-7")
        await cell.session.publish("answer", b"y", qos=1, correlation_data=b"c-7", expiry_s=0.5)
        await cell.hears(2)
        assert cell.received[1].correlation_data == b"c-7"


async def test_a_broker_that_dies_and_returns(
    mosquitto: MosquittoFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="protocols.mqtt")
    broker = mosquitto()
    async with running(Peer(settings(broker.port, "cell"), [("t", 1)])) as cell:
        broker.kill()
        await cell.until(lambda: len(cell.downs) >= 1)
        assert not cell.session.connected
        with pytest.raises(LinkDown) as down:
            await cell.session.publish("t", b"lost", qos=1)
        assert not down.value.sent
        cell.session.publish_soon("t", b"lost too")
        broker.start()
        await cell.until(lambda: cell.ups == 2)
        await cell.session.publish("t", b"back", qos=1)
        assert await cell.hears(1) == [b"back"]
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "connected to" in text]) == 2
    assert len([text for text in told if "it closed the connection" in text]) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert len(cell.downs) == len(set(cell.downs))


async def test_the_session_outlives_a_killed_broker(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    async with running(Peer(settings(broker.port, "cell"), [("t", 1)])):
        pass
    async with running(Peer(settings(broker.port, "planner"))) as planner:
        await planner.session.publish("t", b"kept", qos=1)
    broker.stop()
    broker.start()
    async with running(Peer(settings(broker.port, "cell"), [("t", 1)])) as cell:
        assert await cell.hears(1) == [b"kept"]


async def test_a_daemon_may_start_before_its_broker(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    broker.stop()
    async with running(Peer(settings(broker.port, "cell")), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert f"mqtt://127.0.0.1:{broker.port}" in cell.downs[0]
        assert "nothing listens there" in cell.downs[0]
        broker.start()
        await cell.until(lambda: cell.ups == 1)


async def test_a_refused_publish_is_told(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)
    broker = mosquitto(f"acl_file {acl}")
    async with running(Peer(settings(broker.port, "cell"), [("open/#", 1)])) as cell:
        with pytest.raises(BadRequest, match=r"refuses the message on 'closed/x': Not authorized") as refused:
            await cell.session.publish("closed/x", b"1", qos=1)
        assert refused.value.sent
        await cell.session.publish("open/x", b"2", qos=1)
        assert await cell.hears(1) == [b"2"]
        assert cell.downs == []


async def test_two_clients_with_one_id(mosquitto: MosquittoFactory) -> None:
    given = settings(mosquitto().port, "cell")
    async with running(Peer(given)) as first, running(Peer(given)) as second:
        await first.until(lambda: len(first.downs) == 1)
        assert "another client with the id 'cell'" in first.downs[0]
        await second.session.publish("t", b"still here", qos=1)
        assert second.downs == []


async def test_a_wrong_password_is_named(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    users = tmp_path / "users"
    command = ("mosquitto_passwd", "-c", "-b", str(users), "cell-1", "right")
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    users.chmod(0o600)
    broker = mosquitto("allow_anonymous false", f"password_file {users}")
    wrong = settings(broker.port, "cell", username="cell-1", password="wrong")
    async with running(Peer(wrong), up=False) as cell:
        await cell.until(lambda: len(cell.downs) == 1)
        assert "user 'cell-1'" in cell.downs[0]
        assert "password" in cell.downs[0]
        assert "wrong" not in cell.downs[0]
    assert "wrong" not in repr(wrong)
    async with running(Peer(settings(broker.port, "cell", username="cell-1", password="right"))) as cell:
        assert cell.session.connected
