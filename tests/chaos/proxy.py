"""A TCP proxy between a student and a teacher that delays, cuts, withholds and damages bytes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

CHUNK = 4096

HELLO = 400
"""Bytes that a student has sent at most before it asks for something."""


@dataclass
class Weather:
    """What happens to the bytes that pass, in both directions; may be changed at any time.

    Args:
        delay: seconds by which every chunk is late, up to.
        cut: how likely a chunk breaks its connection.
        flip: how likely one bit of a chunk is turned over.
        flips: how many bits at most.
        lives: how many connections are cut after a while: those over which the student sends
            more than a greeting and a Hello.
        life: seconds that each of them lasts from then on.
    """

    delay: float = 0.0
    cut: float = 0.0
    flip: float = 0.0
    flips: int = 1_000_000
    lives: int = 0
    life: float = 0.0


class Proxy:
    """Listens on loopback and passes on to one port, until the block is left.

    Args:
        target: the teacher's port on loopback.
        seed: of what is drawn.

    Attributes:
        weather: what happens to the bytes.
        connections, cuts, flipped: how many there were.
    """

    def __init__(self, target: int, seed: int = 0, weather: Weather | None = None) -> None:
        self.weather = weather or Weather()
        self.connections = self.cuts = self.flipped = 0
        self._target, self._random = target, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._students: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self._students.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._abort(writer)
            return
        self._writers.add(back)
        for source, sink, other in ((reader, back, writer), (there, writer, back)):
            task = self._loop.create_task(self._pump(source, sink, other))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        passed = 0
        with suppress(OSError):
            while data := await source.read(CHUNK):
                asks, passed = passed <= HELLO < passed + len(data), passed + len(data)
                if asks and sink not in self._students and self.weather.lives > 0:
                    self.weather.lives -= 1
                    self._loop.call_later(self.weather.life, self._end, sink, other)
                await self._open.wait()
                await asyncio.sleep(self._random.uniform(0, self.weather.delay))
                if self._random.random() < self.weather.cut:
                    self.cuts += 1
                    break
                sink.write(self._damaged(data))
                await sink.drain()
        self._abort(sink)
        self._abort(other)

    def _damaged(self, data: bytes) -> bytes:
        weather = self.weather
        if weather.flips <= 0 or self._random.random() >= weather.flip:
            return data
        weather.flips -= 1
        self.flipped += 1
        wrong = bytearray(data)
        wrong[self._random.randrange(len(wrong))] ^= 1 << self._random.randrange(8)
        return bytes(wrong)

    def _abort(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        self._students.discard(writer)
        writer.transport.abort()

    def _end(self, *writers: asyncio.StreamWriter) -> None:
        self.cuts += 1
        for writer in writers:
            self._abort(writer)

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def both() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(both)
        assert done.wait(10)

    def cut(self) -> None:
        """Break all connections now."""
        self.cuts += 1
        self._do(lambda: [self._abort(w) for w in tuple(self._writers)] and None)

    def hole(self, black: bool = True) -> None:
        """Accept connections and bytes and pass nothing on; or pass on again what was held."""
        self._do(self._open.clear if black else self._open.set)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
        self._do(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        self._open.set()
        self._server.close()
        while self._writers or self._pumps:
            for writer in tuple(self._writers):
                self._abort(writer)
            for pump in tuple(self._pumps):
                pump.cancel()
            await asyncio.sleep(0)
