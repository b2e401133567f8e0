"""An event loop in a thread of its own, for blocking callers; works where a loop is running already, as in Jupyter."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from visionpipe.errors import InvalidRequestError

T = TypeVar("T")

CLOSED = "This client is closed; make a new one."
LOOK_S = 5.0
"""How often a caller who waits looks whether the loop still runs."""


class Portal:
    """Runs coroutines for callers in any thread; made by one process and useless in its forked children."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        started = threading.Event()
        # The thread must not keep the portal alive, else a forgotten client could never be collected.
        self._thread = threading.Thread(target=_serve, args=(self._loop, started), name="visionpipe", daemon=True)
        self._thread.start()
        started.wait()
        self._close = weakref.finalize(self, _shut, self._loop, self._thread, self._pid)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; Ctrl-C cancels it.

        Raises:
            InvalidRequestError: The portal is closed, belongs to another process, or is waited for by its own loop.
        """
        try:
            self._check()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except InvalidRequestError:
            work.close()
            raise
        except RuntimeError as error:
            # Another thread has closed the loop at this very moment.
            work.close()
            raise InvalidRequestError(CLOSED) from error
        try:
            return self._result(future)
        except concurrent.futures.CancelledError as error:
            raise InvalidRequestError("This client was closed while a call was under way.") from error
        except KeyboardInterrupt:
            # The coroutine would otherwise go on in its thread, and its answer be lost.
            future.cancel()
            raise

    def _result(self, future: concurrent.futures.Future[T]) -> T:
        while True:
            try:
                return future.result(LOOK_S)
            except TimeoutError:
                if future.done():
                    return future.result()
                # Whoever closes at the very moment of a call may end the loop before it hears of that.
                if not self._thread.is_alive():
                    future.cancel()

    def iterate(self, start: Callable[[], AsyncGenerator[list[T], None]]) -> Iterator[T]:
        """Walk the lists of an async generator, made inside the loop at once, from blocking code.

        Lists, because each costs two changes of thread, which is more than most items do.
        """

        async def begin() -> AsyncGenerator[list[T], None]:
            return start()

        return self._walk(self.run(begin()))

    def _walk(self, generator: AsyncGenerator[list[T], None]) -> Iterator[T]:
        # A step that Ctrl-C interrupts is still winding down when the generator is closed.
        turn = asyncio.Lock()
        try:
            while (items := self.run(_step(generator, turn))) is not None:
                for item in items:
                    # A stream ends with its client, not with the last list that came before.
                    self._check()
                    yield item
        finally:
            if not self.closed:
                self.run(_end(generator, turn))

    @property
    def closed(self) -> bool:
        """Whether the portal can run no more."""
        return not self._close.alive

    def close(self) -> None:
        """End the loop and its thread; calls under way are cancelled. In a forked child this does nothing."""
        self._close()

    def _check(self) -> None:
        if self.closed:
            raise InvalidRequestError(CLOSED)
        if os.getpid() != self._pid:
            raise InvalidRequestError("This client was made before a fork; make a new one in the child process.")
        if threading.current_thread() is self._thread:
            raise InvalidRequestError("A blocking client cannot be used inside its own event loop; use AsyncClient.")


async def _step(generator: AsyncGenerator[T, None], turn: asyncio.Lock) -> T | None:
    async with turn:
        return await anext(generator, None)


async def _end(generator: AsyncGenerator[T, None], turn: asyncio.Lock) -> None:
    async with turn:
        await generator.aclose()


def _serve(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.set)
    loop.run_forever()


def _shut(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid or not thread.is_alive():
        return
    asyncio.run_coroutine_threadsafe(_wind_down(loop), loop)
    # A garbage collection inside the loop's own thread can end up here; it cannot wait for itself.
    if threading.current_thread() is not thread:
        thread.join(timeout=10)
        # What blocks in a thread, such as a file system that has gone away, keeps the loop waiting.
        if not thread.is_alive():
            loop.close()


async def _wind_down(loop: asyncio.AbstractEventLoop) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    loop.stop()
