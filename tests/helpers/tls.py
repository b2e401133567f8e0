"""Certificates made on the spot, and TLS in front of a server that has none."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def authority(folder: Path, name: str) -> Path:
    """Make an authority; gives its certificate, beside which its key lies."""
    certificate = folder / f"{name}.crt"
    key = folder / f"{name}.key"
    _openssl("req", "-x509", *_CURVE, "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
    return certificate


def signed(folder: Path, ca: Path, name: str, alternatives: str) -> tuple[Path, Path]:
    """Make a server's certificate and key, for names such as ``DNS:localhost,IP:127.0.0.1``."""
    certificate, key, request, extension = (folder / f"{name}.{kind}" for kind in ("crt", "key", "csr", "ext"))
    extension.write_text(f"subjectAltName={alternatives}\n")
    _openssl("req", *_CURVE, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial", "-days", "2",
        "-extfile", extension, "-out", certificate,
    )  # fmt: skip
    return certificate, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


class Terminator:
    """Speaks TLS to clients and plainly to a server behind it.

    Attributes:
        port: Where it listens on 127.0.0.1.
        heard: Everything that clients said after a handshake.
    """

    def __init__(self, certificate: Path, key: Path, behind: tuple[str, int]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.port = self._listener.getsockname()[1]
        self.heard = bytearray()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(10)
            inside = self._context.wrap_socket(client, server_side=True)
            with inside, socket.create_connection(self._behind) as server:
                self._relay(inside, server)

    def _relay(self, inside: ssl.SSLSocket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(inside, selectors.EVENT_READ)
            waiting.register(server, selectors.EVENT_READ)
            while not self._ended.is_set():
                # What the TLS layer has read ahead shows on no socket.
                ready = [inside] if inside.pending() else [key.fileobj for key, _ in waiting.select(0.2)]
                for side in ready:
                    data = side.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if side is inside:
                        self.heard += data
                    (server if side is inside else inside).sendall(data)

    def __enter__(self) -> Terminator:
        self._threads.append(threading.Thread(target=self._listen, daemon=True))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()


@contextlib.contextmanager
def terminated(certificate: Path, key: Path, behind: tuple[str, int]) -> Iterator[Terminator]:
    """TLS in front of a server while this lasts."""
    with Terminator(certificate, key, behind) as made:
        yield made
