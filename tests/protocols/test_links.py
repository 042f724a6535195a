"""One object for each port, whoever asks for it, and clear words for what cannot share one."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.errors import BadRequest, LinkDown
from protocols.framed import FramedDecoder
from protocols.lines import LineDecoder
from protocols.links import Links, open_stream, same_port
from protocols.modbus import Modbus
from protocols.serial_port import SerialPort, SerialSettings
from protocols.tcp import TcpStream
from tests.protocols.peers import PtyPeer, TcpPeer

SLOW, FAST = SerialSettings(9600), SerialSettings(38400)


def test_the_scheme_picks_the_stream() -> None:
    assert isinstance(open_stream("/dev/ttyUSB0", FAST), SerialPort)
    assert isinstance(open_stream("ports/red", None), SerialPort)
    assert isinstance(open_stream("hwgrep://0403:6001", FAST), SerialPort)
    assert isinstance(open_stream("socket://10.0.0.7:4001", None), TcpStream)
    named = open_stream("tcp://[::1]:502", None)
    assert isinstance(named, TcpStream)
    assert named.name == "[::1]:502"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("rfc2217://10.0.0.7:4001", "RFC 2217 ports are not supported"),
        ("opc.tcp://10.0.0.9:4840", "not a port that bytes go through"),
        ("tcp://10.0.0.9", "give host and port number"),
        ("socket://:4001", "give host and port number"),
        ("tcp://host:port", "give host and port number"),
        ("tcp://host:99999", "give host and port number"),
    ],
)
def test_a_port_that_cannot_be_one_is_refused_with_a_mend(url: str, word: str) -> None:
    with pytest.raises(BadRequest, match=word) as caught:
        open_stream(url, None)
    assert url in str(caught.value)
    assert not caught.value.sent


def test_the_same_port_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to("ttyUSB0")
    assert same_port(str(tmp_path / "by-id"), str(tmp_path / "ttyUSB0"))
    assert not same_port(str(tmp_path / "ttyUSB1"), str(tmp_path / "ttyUSB0"))
    assert same_port("socket://Scale.local:4001", "tcp://scale.local:4001")
    assert not same_port("socket://scale.local:4001", "socket://scale.local:4002")


async def test_devices_on_one_port_get_the_same_object(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to("ttyUSB0")
    links = Links()
    one = links.exchange(str(tmp_path / "ttyUSB0"), FAST, FramedDecoder, quiet_s=0.01, user="red")
    other = links.exchange(str(tmp_path / "by-id"), FAST, FramedDecoder, quiet_s=0.01, user="blue")
    assert one is other
    assert links.exchange("/dev/ttyUSB9", FAST, FramedDecoder) is not one
    ph = links.modbus("/dev/ttyUSB3", FAST, user="ph")
    assert links.modbus("/dev/ttyUSB3", FAST) is ph
    assert not ph.is_tcp
    assert links.modbus("tcp://10.0.0.5:502").is_tcp
    assert not links.modbus("socket://10.0.0.6:502").is_tcp


async def test_conflicts_name_both_devices_and_the_mend() -> None:
    links = Links()
    links.exchange("/dev/ttyUSB0", FAST, FramedDecoder, user="red")
    with pytest.raises(
        BadRequest, match=r"red and scale share .*\(38400 baud 8N1; 9600 baud 8N1\).*own port"
    ):
        links.exchange("/dev/ttyUSB0", SLOW, FramedDecoder, user="scale")
    with pytest.raises(BadRequest, match="red and scale share this port and speak different protocols"):
        links.exchange("/dev/ttyUSB0", FAST, LineDecoder, user="scale")
    with pytest.raises(BadRequest, match=r"red and ph .* different protocols"):
        links.modbus("/dev/ttyUSB0", FAST, user="ph")
    with pytest.raises(BadRequest, match="different line settings"):
        links.exchange("/dev/ttyUSB0", None, FramedDecoder, user="scale")


async def test_modbus_tcp_and_rtu_cannot_share_a_connection() -> None:
    links = Links()
    links.modbus("tcp://10.0.0.5:502", user="arm")
    with pytest.raises(BadRequest, match=r"arm and ph .* different protocols"):
        links.modbus("socket://10.0.0.5:502", user="ph")
    with pytest.raises(BadRequest, match="one device and another"):
        unnamed_conflict()


def unnamed_conflict() -> Modbus:
    links = Links()
    links.exchange("socket://10.0.0.5:502", None, LineDecoder)
    return links.modbus("socket://10.0.0.5:502")


async def test_line_settings_do_not_matter_on_tcp() -> None:
    links = Links()
    assert links.exchange("tcp://h:1", FAST, LineDecoder) is links.exchange("tcp://h:1", SLOW, LineDecoder)


async def test_closing_closes_every_port_for_good() -> None:
    links = Links()
    async with TcpPeer(lambda data: data) as scale:
        with PtyPeer(lambda data: data) as pump:
            first = links.exchange(f"socket://{scale.address}", None, LineDecoder)
            second = links.exchange(pump.path, SLOW, LineDecoder)
            for exchange in (first, second):
                reply = await exchange.request(b"x\r\n", accept=lambda _: True, timeout_s=5, unit="u")
                assert reply == b"x"
            await links.close()
            assert not first.is_open
            assert not second.is_open
            with pytest.raises(LinkDown, match="closed"):
                await second.request(b"x\r\n", accept=lambda _: True, timeout_s=5, unit="u")
            with pytest.raises(BadRequest, match="closed"):
                links.modbus("tcp://10.0.0.5:502")
