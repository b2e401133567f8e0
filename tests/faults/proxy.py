"""A TCP port before a Redis socket, which can go silent or break off in the middle of a command."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Pair:
    near: socket.socket
    far: socket.socket
    silent: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """A port of 127.0.0.1 whose connections lead to a unix socket.

    Args:
        path: The unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.broken_off = threading.Event()
        self._needle = b""
        self._share = 1.0
        self._pairs: list[_Pair] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> int:
        """Make every open connection a black hole; new ones work."""
        for pair in self._pairs:
            pair.silent.set()
        return len(self._pairs)

    def break_off(self, needle: bytes, share: float) -> None:
        """At the next command that holds a text, pass only a share of it on, and no answer; then be silent."""
        self._share, self._needle = share, needle

    def close(self) -> None:
        self._server.close()
        for pair in self._pairs:
            pair.near.close()
            pair.far.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._path)
            except OSError:
                near.close()
                continue
            pair = _Pair(near, far)
            self._pairs.append(pair)
            threading.Thread(target=self._pump, args=(pair, near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, far, near, False), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        while True:
            try:
                data = source.recv(65536)
                if pair.silent.is_set():
                    # Neither data nor FIN passes a black hole.
                    if not data:
                        return
                    continue
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if upward and self._needle and self._needle in data:
                    self._needle = b""
                    pair.silent.set()
                    sink.sendall(data[: max(1, int(len(data) * self._share))])
                    self.broken_off.set()
                    continue
                sink.sendall(data)
            except OSError:
                return


@contextlib.contextmanager
def proxy(redis_url: str) -> Iterator[Proxy]:
    """Open a proxy before the server of a ``unix://`` URL."""
    user, at, path = redis_url.removeprefix("unix://").rpartition("@")
    opened = Proxy(path)
    opened.url = opened.url.replace("//", f"//{user}{at}")
    try:
        yield opened
    finally:
        opened.close()
