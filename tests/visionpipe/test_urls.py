"""URLs are fetched from real local servers, and never from where they must not be."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import httpx
import pytest

from visionpipe import urls
from visionpipe.errors import ImageTooLargeError, UrlFetchError, UrlRefusedError
from visionpipe.urls import UrlFetcher, is_public

Handler = Callable[[socket.socket, str, str], None]


def _answer(connection: socket.socket, body: bytes, *headers: str, status: str = "200 OK") -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode() + body)


@contextmanager
def serve(handler: Handler, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve raw HTTP; the handler is given the connection, the path and the Host header."""
    listener = socket.create_server((address, 0))
    listener.settimeout(0.05)
    stop = threading.Event()

    def one(connection: socket.socket) -> None:
        with closing(connection):
            try:
                connection.settimeout(5)
                head = connection.recv(65536).decode()
                host = next((line[6:] for line in head.split("\r\n") if line.lower().startswith("host: ")), "")
                handler(connection, head.split(" ")[1], host)
            except OSError:
                pass

    def loop() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    threads: list[threading.Thread] = [threading.Thread(target=loop)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
        listener.close()


def local(**changes: object) -> UrlFetcher:
    return UrlFetcher(**{"max_bytes": 1000, "timeout_s": 5.0, "allow_private": True, **changes})  # type: ignore[arg-type]


def guarded(**changes: object) -> UrlFetcher:
    """The guard as in production, except that 127.0.0.1 and all ports stand for the open internet."""
    return local(
        allow_private=False,
        ports=None,
        allowed=lambda address: address == "127.0.0.1" or is_public(address),
        resolver=lambda host, port: ["127.0.0.1"] if host.endswith(".example") else urls.resolve(host, port),
        **changes,
    )


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1",
    "2002:7f00:1::", "2002:a00:1::1", "2001::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_known(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_known(address):
    assert is_public(address)


def test_a_body_is_fetched_with_the_host_header_of_the_url():
    def echo(connection: socket.socket, path: str, host: str) -> None:
        _answer(connection, f"{host} {path}".encode())

    with serve(echo) as port:
        fetched = guarded().fetch(f"http://pictures.example:{port}/a%20b.jpg?sig=1#part")
    assert fetched == f"pictures.example:{port} /a%20b.jpg?sig=1".encode()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/", "http://0/", "http://[::1]/",
        "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/meta-data/", "http://[64:ff9b::7f00:1]/",
    ],
)  # fmt: skip
def test_urls_to_this_machine_are_refused_however_spelled(url):
    with pytest.raises((UrlRefusedError, UrlFetchError)) as caught:
        UrlFetcher(max_bytes=10, timeout_s=5).fetch(url)
    assert isinstance(caught.value, UrlRefusedError) or "does not resolve" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example/x", "only http"),
        ("file:///etc/passwd", "only http"),
        ("http:///x", "only http"),
        ("http://user:secret@a.example/x", "credentials"),
        ("http://a.example:22/x", "got 22"),
        ("http://[zz]/", "not a URL"),
        ("http://a.example:x/", "not a URL"),
        ("http://xn--a.example/", "not a URL"),
    ],
)
def test_odd_urls_are_refused_and_secrets_kept(url, reason):
    with pytest.raises(UrlRefusedError, match=reason) as caught:
        UrlFetcher(max_bytes=10, timeout_s=5).fetch(url)
    assert "secret" not in str(caught.value)


def test_a_port_beyond_all_ports_is_refused():
    with pytest.raises(UrlRefusedError, match="99999"):
        local().fetch("http://127.0.0.1:99999/")


def test_one_private_address_among_public_ones_refuses_the_host():
    fetcher = UrlFetcher(max_bytes=10, timeout_s=5, resolver=lambda host, port: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(UrlRefusedError, match=r"10\.0\.0\.1"):
        fetcher.fetch("http://mixed.example/")


def test_redirects_are_followed_and_each_hop_is_checked_anew():
    def hop(connection: socket.socket, path: str, host: str) -> None:
        targets = {"/1": "/2", "/2": f"http://other.example:{port}/3", "/inside": f"http://127.0.0.2:{port}/3"}
        if path in targets:
            _answer(connection, b"", f"Location: {targets[path]}", status="302 Found")
        else:
            _answer(connection, host.encode())

    with serve(hop) as port:
        assert guarded().fetch(f"http://a.example:{port}/1") == f"other.example:{port}".encode()
        with pytest.raises(UrlRefusedError, match=r"127\.0\.0\.2"):
            guarded().fetch(f"http://a.example:{port}/inside")


def test_a_redirect_to_another_scheme_or_round_in_circles_ends():
    def hop(connection: socket.socket, path: str, host: str) -> None:
        target = "file:///etc/passwd" if path == "/file" else f"{path}x"
        _answer(connection, b"", f"Location: {target}", status="301 Moved")

    with serve(hop) as port:
        with pytest.raises(UrlRefusedError, match="only http"):
            local().fetch(f"http://127.0.0.1:{port}/file")
        with pytest.raises(UrlFetchError, match="redirects more than 3 times"):
            local().fetch(f"http://127.0.0.1:{port}/loop")


def test_an_answer_that_changes_after_the_check_changes_nothing():
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    fetcher = local(allow_private=False, ports=None, resolver=rebinding, allowed=lambda address: address == "127.0.0.1")
    with serve(lambda connection, path, host: _answer(connection, b"public")) as port:
        assert fetcher.fetch(f"http://rebind.example:{port}/") == b"public"
        assert asked == ["rebind.example"]
        with pytest.raises(UrlRefusedError, match=r"127\.0\.0\.2"):
            fetcher.fetch(f"http://rebind.example:{port}/")


def test_the_second_address_is_tried_when_the_first_does_not_answer():
    fetcher = local(resolver=lambda host, port: ["127.0.0.3", "127.0.0.1"])
    with serve(lambda connection, path, host: _answer(connection, b"here")) as port:
        assert fetcher.fetch(f"http://two.example:{port}/") == b"here"


def _drip_body(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def _drip_head(connection: socket.socket, path: str, host: str) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"y" * 100:
        connection.sendall(bytes([letter]))
        time.sleep(0.05)


def _silent(connection: socket.socket, path: str, host: str) -> None:
    connection.recv(1)


@pytest.mark.parametrize("handler", [_drip_body, _drip_head, _silent])
def test_a_server_that_drips_or_is_silent_is_left_in_time(handler):
    with serve(handler) as port:
        begun = time.monotonic()
        with pytest.raises(UrlFetchError, match=r"within 0\.4 s"):
            local(timeout_s=0.4).fetch(f"http://127.0.0.1:{port}/")
        assert time.monotonic() - begun < 4


def test_a_resolver_that_hangs_is_left_in_time():
    left = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        left.wait(20)
        return ["127.0.0.1"]

    begun = time.monotonic()
    with pytest.raises(UrlFetchError, match="did not resolve"):
        local(timeout_s=0.2, resolver=hang).fetch("http://slow.example/")
    assert time.monotonic() - begun < 10
    left.set()


def _endless(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")


def _says_too_much(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")


@pytest.mark.parametrize("handler", [_endless, _says_too_much])
def test_endless_and_too_long_bodies_are_refused(handler):
    with serve(handler) as port, pytest.raises(ImageTooLargeError, match="more than 1000 bytes"):
        local().fetch(f"http://127.0.0.1:{port}/")


def _short(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


BAD_ANSWERS: dict[str, tuple[Handler, str]] = {
    "missing": (lambda c, path, host: _answer(c, b"no", status="404 Not Found"), "status 404"),
    "redirect without target": (lambda c, path, host: _answer(c, b"", status="302 Found"), "status 302"),
    "compressed": (lambda c, path, host: _answer(c, b"..", "Content-Encoding: gzip"), "compressed"),
    "short": (_short, "cannot be fetched"),
    "no http": (lambda c, path, host: c.sendall(b"220 smtp ready\r\n\r\n"), "cannot be fetched"),
    "hangs up": (lambda c, path, host: None, "cannot be fetched"),
}


@pytest.mark.parametrize("handler", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answers_are_fetch_errors(handler):
    with serve(handler[0]) as port, pytest.raises(UrlFetchError, match=handler[1]):
        local().fetch(f"http://127.0.0.1:{port}/x?secret=1")


def test_a_port_where_nobody_listens_and_a_name_nobody_has_are_fetch_errors():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UrlFetchError, match="cannot be fetched"):
        local().fetch(f"http://127.0.0.1:{port}/")
    with pytest.raises(UrlFetchError, match="does not resolve"):
        local().fetch("http://no-such-host.invalid/")


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    with serve(lambda connection, path, host: _answer(connection, b"proxied")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy}")
        with serve(lambda connection, path, host: _answer(connection, b"direct")) as port:
            assert local().fetch(f"http://127.0.0.1:{port}/") == b"direct"


def test_tls_checks_the_name_in_the_url_not_the_pinned_address(tmp_path):
    """The server sees the URL's name in SNI, and its untrusted certificate is refused."""
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def note(_: object, name: str | None, __: object) -> int:
        named.append(name)
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context.sni_callback = note  # type: ignore[assignment]
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        connection, _ = listener.accept()
        with closing(connection), pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(connection, server_side=True)

    thread = threading.Thread(target=accept)
    thread.start()
    with pytest.raises(UrlFetchError, match="cannot be fetched"):
        guarded().fetch(f"https://pictures.example:{listener.getsockname()[1]}/")
    thread.join(5)
    listener.close()
    assert named == ["pictures.example"]


def test_a_guarded_fetch_shares_one_tls_context():
    assert urls._ssl_context() is urls._ssl_context()
    assert urls._ssl_context().verify_mode is ssl.CERT_REQUIRED
    assert httpx.URL("https://a.example").port is None


@pytest.mark.parametrize(
    "url",
    [
        "http://0177.0.0.1/", "http://017700000001/", "http://0x7f000001/", "http://127.1/", "http://127.0.1/",
        "http://localhost./", "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:127.0.0.1]/", "http://[::7f00:1]/",
        "http://[2002:7f00:1::]/", "http://[fe80::1%25lo]/", "http://[::]/", "http://0.0.0.0/", "http://0000/",
        "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/", "http://127\u30020\u30020\u30021/", "http://%31%32%37.0.0.1/",
        "http://169.254.169.254.:80/", "http://2852039166/",
    ],
)  # fmt: skip
def test_no_spelling_of_an_address_reaches_this_machine_or_its_network(url, monkeypatch):
    monkeypatch.setattr(urls.httpcore.SyncBackend, "connect_tcp", lambda *_, **__: pytest.fail("it connected"))
    with pytest.raises((UrlRefusedError, UrlFetchError)) as caught:
        UrlFetcher(max_bytes=10, timeout_s=5).fetch(url)
    assert isinstance(caught.value, UrlRefusedError) or "does not resolve" in str(caught.value)


def test_a_redirect_without_a_scheme_or_with_credentials_is_checked_and_shows_none():
    def hop(connection: socket.socket, path: str, host: str) -> None:
        target = {"/lean": "//127.0.0.2/x", "/user": f"http://me:hunter2@a.example:{port}/"}[path]
        _answer(connection, b"", f"Location: {target}", status="302 Found")

    with serve(hop) as port:
        with pytest.raises(UrlRefusedError, match=r"127\.0\.0\.2"):
            guarded().fetch(f"http://a.example:{port}/lean")
        with pytest.raises(UrlRefusedError, match="credentials") as caught:
            guarded().fetch(f"http://a.example:{port}/user")
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


def _endless_head(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: " + b"y" * 1000 + b"\r\n")


def _endless_continue(connection: socket.socket, path: str, host: str) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def _packed_on_the_way(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")
    connection.sendall(b"a\r\n" + b"\x1f\x8b" + bytes(8) + b"\r\n0\r\n\r\n")


def _two_lengths(connection: socket.socket, path: str, host: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 900\r\n\r\nab")


@pytest.mark.parametrize("handler", [_endless_head, _endless_continue, _packed_on_the_way, _two_lengths])
def test_answers_that_never_begin_or_are_packed_end_as_fetch_errors_in_time(handler):
    with serve(handler) as port:
        begun = time.monotonic()
        with pytest.raises(UrlFetchError):
            local(timeout_s=1.0).fetch(f"http://127.0.0.1:{port}/")
        assert time.monotonic() - begun < 10


def test_a_handshake_that_drips_ends_with_the_fetch():
    def drip(connection: socket.socket, path: str, host: str) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")
        for _ in range(100):
            connection.sendall(b"\x02")
            time.sleep(0.05)

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        connection, _ = listener.accept()
        with closing(connection), pytest.raises(OSError):  # noqa: PT012
            drip(connection, "", "")
            raise OSError

    thread = threading.Thread(target=accept)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(UrlFetchError):
        local(timeout_s=0.5).fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/")
    assert time.monotonic() - begun < 4
    thread.join(10)
    listener.close()
