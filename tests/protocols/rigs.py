"""What several test modules share: exchanges over scripted peers, an ear, Modbus checks by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocols.descriptor import DescriptorStream
from protocols.exchange import Exchange
from protocols.lines import LineDecoder
from protocols.manners import Manners
from protocols.serial_port import SerialPort, SerialSettings
from tests.protocols.peers import Answer, PtyPeer, mute

QUICK = Manners(quiet_s=0.005)


@asynccontextmanager
async def line(
    answer: Answer = mute, manners: Manners = QUICK
) -> AsyncIterator[tuple[Exchange[bytes], PtyPeer]]:
    """An exchange of lines on a PTY, and the peer behind it."""
    with PtyPeer(answer) as peer:
        exchange = Exchange(SerialPort(peer.path, SerialSettings()), LineDecoder(), manners)
        try:
            yield exchange, peer
        finally:
            await exchange.close()


def any_line(_: bytes) -> bool:
    return True


def echo(data: bytes) -> bytes:
    return data


async def ask(exchange: Exchange[bytes], text: bytes, unit: str = "u", timeout_s: float = 5.0) -> bytes:
    return await exchange.request(text + b"\r\n", accept=any_line, timeout_s=timeout_s, unit=unit)


class Ear:
    """Listens to a stream."""

    def __init__(self, stream: DescriptorStream) -> None:
        self.bytes = bytearray()
        self.lost: list[str] = []
        self._heard = asyncio.Event()
        stream.listen(self._take, self._lose)

    def _take(self, data: bytes) -> None:
        self.bytes += data
        self._heard.set()

    def _lose(self, reason: str) -> None:
        self.lost.append(reason)
        self._heard.set()

    async def heard(self) -> None:
        async with asyncio.timeout(5):
            await self._heard.wait()
        self._heard.clear()


def crc(frame: bytes) -> bytes:
    """CRC-16/MODBUS bit by bit, as V1.02, 6.2.2 describes it."""
    register = 0xFFFF
    for byte in frame:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


def rtu(text: str) -> bytes:
    frame = bytes.fromhex(text)
    return frame + crc(frame)
