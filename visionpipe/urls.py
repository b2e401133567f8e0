"""Fetching http(s) URLs that strangers name, without going where a worker must not go.

The host is resolved once per hop, every address is checked, and the connection goes to a checked address; so a DNS
answer that changes between check and connection changes nothing. Environment proxies are never used.
"""

from __future__ import annotations

import functools
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from visionpipe.errors import ImageTooLargeError, UrlFetchError, UrlRefusedError

MAX_REDIRECTS = 3
"""Hops after the first; each is checked like the first."""
PORTS = frozenset({80, 443, 8080, 8443})
"""The ports a URL may name, unless private addresses are allowed."""

_REDIRECTS = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "64:ff9b:1::/48", "2001::/23", "fec0::/10")
]

Resolver = Callable[[str, int], list[str]]
"""Host name and port → addresses, best first."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet; an IPv4 address inside an IPv6 one is looked at too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64 or int(ip) >> 32 == 0:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    refused = ip.is_multicast or ip.is_reserved or ip.is_unspecified or any(ip in network for network in _REFUSED)
    return ip.is_global and not refused


def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    return [str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True, kw_only=True)
class UrlFetcher:
    """Fetches URLs under an SSRF guard; safe in threads."""

    max_bytes: int
    """Longest body, in bytes."""
    timeout_s: float
    """For the whole fetch: names, redirects and body together."""
    allow_private: bool = False
    """Whether private, loopback and reserved addresses and all ports are allowed."""
    resolver: Resolver = resolve
    """Replaceable in tests."""
    allowed: Callable[[str], bool] = is_public
    """Decides about one address unless ``allow_private``."""
    ports: frozenset[int] | None = PORTS
    """Which ports are allowed unless ``allow_private``; none given means all."""

    def fetch(self, url: str) -> bytes:
        """Fetch a URL's body.

        Raises:
            UrlRefusedError: The URL, or a redirect, points where a worker must not go.
            UrlFetchError: It could not be fetched in time, or not with status 200.
            ImageTooLargeError: The body is longer than ``max_bytes``.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            target = httpx.URL(url)
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._hop(target, deadline)
                if isinstance(answer, bytes):
                    return answer
                target = target.join(answer)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UrlRefusedError(f"this is not a URL that can be fetched: {error}") from error
        raise UrlFetchError(f"{_shown(httpx.URL(url))} redirects more than {MAX_REDIRECTS} times")

    def _hop(self, url: httpx.URL, deadline: float) -> bytes | str:
        self._check(url)
        # A pool of its own for each hop: a kept connection would skip the check of the next host.
        backend = _PinnedBackend(self, deadline)
        shown = _shown(url)
        try:
            with (
                httpcore.ConnectionPool(network_backend=backend, ssl_context=_ssl_context(), retries=0) as pool,
                pool.stream("GET", str(url.copy_with(fragment=None)), headers=_headers(url)) as response,
            ):
                return self._answer(response, shown)
        except httpcore.TimeoutException as error:
            raise UrlFetchError(f"{shown} did not arrive within {self.timeout_s:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError) as error:
            raise UrlFetchError(f"{shown} cannot be fetched: {str(error) or type(error).__name__}") from error

    def _check(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise UrlRefusedError(f"{_shown(url)}: only http and https URLs with a host are fetched")
        if url.userinfo:
            raise UrlRefusedError(f"{_shown(url)}: URLs that carry credentials are not fetched")
        ports = range(1, 65536) if self.allow_private or self.ports is None else sorted(self.ports)
        if (url.port or 80) not in ports:
            raise UrlRefusedError(f"{_shown(url)}: expected one of the ports {ports}, got {url.port}")

    def _answer(self, response: httpcore.Response, shown: str) -> bytes | str:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return headers[b"location"]
        if response.status != 200:
            raise UrlFetchError(f"{shown} answered with status {response.status}", status=response.status)
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            # A few kilobytes of gzip can unpack to gigabytes, and images gain nothing from it.
            raise UrlFetchError(f"{shown} sends compressed content although asked not to")
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) > self.max_bytes:
            raise self._too_large(shown)
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.max_bytes:
                raise self._too_large(shown)
        return bytes(body)

    def _too_large(self, shown: str) -> ImageTooLargeError:
        return ImageTooLargeError(f"{shown} has more than {self.max_bytes} bytes", limit=self.max_bytes)

    def addresses(self, host: str, port: int, timeout_s: float) -> list[str]:
        """Resolve a host in time and refuse it if any of its addresses is not allowed.

        Raises:
            UrlRefusedError: An address is private, loopback, link-local, multicast or reserved.
            UrlFetchError: The name does not resolve in time.
        """
        found = _resolve_within(self.resolver, host, port, timeout_s)
        for address in found:
            if not (self.allow_private or self.allowed(address)):
                raise UrlRefusedError(f"host {host!r} points to {address}, which is no public address", host=host)
        return found


class _PinnedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked; TLS still sees the host's name."""

    def __init__(self, guard: UrlFetcher, deadline: float) -> None:
        self._guard = guard
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._guard.addresses(host, port, _left(self._deadline)):
            try:
                stream = self._sockets.connect_tcp(address, port, timeout=_left(self._deadline))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failure or httpcore.ConnectError(f"{host} has no address")


class _TimedStream(httpcore.NetworkStream):
    """Ends every read and write at one deadline, so that a server that drips cannot hold a thread."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout=_left(self._deadline))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the whole fetch is over")
    return left


def _resolve_within(resolver: Resolver, host: str, port: int, timeout_s: float) -> list[str]:
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # getaddrinfo knows no timeout; a daemon thread may finish later without holding anybody up.
    threading.Thread(target=ask, name="vp-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty as error:
        raise UrlFetchError(f"host {host!r} did not resolve within {timeout_s:.1f} s") from error
    if not isinstance(answer, list):
        raise UrlFetchError(f"host {host!r} does not resolve: {answer}") from answer
    return answer


def _headers(url: httpx.URL) -> dict[bytes | str, bytes | str]:
    return {
        "Host": url.netloc.decode("ascii"),
        "Accept": "image/*,*/*;q=0.5",
        "Accept-Encoding": "identity",
        "User-Agent": "visionpipe",
        "Connection": "close",
    }


def _shown(url: httpx.URL) -> str:
    # The query may hold a signature; it stays out of messages and logs.
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}{url.path}"[:300]


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()
