"""Redis URLs: which may be used, and what of one may be shown."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

SCHEMES = ("redis", "rediss", "unix")

_NO = ("false", "0", "f", "no", "n", "off")


def check_redis_url(url: str) -> str:
    """Give back a URL that may be used.

    Raises:
        ValueError: It is none of Redis, or asks for TLS without verification; the message shows no password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Their messages repeat what stands around the place, which may be the password.
        raise ValueError("it cannot be taken apart; write special characters of a password as %XX") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"it begins with {url.partition(':')[0][:16]!r}, not with one of {', '.join(SCHEMES)}")
    if ";" in url:
        # Celery takes it for a list of servers, and would check the first alone.
        raise ValueError("it has a semicolon; write that as %3B")
    if parts.scheme == "rediss":
        _check_verified(parts.query)
    return url


def shown(url: str) -> str:
    """Spell a URL for people and logs: scheme, host, port and path, without user, password and options."""
    try:
        parts = urlsplit(check_redis_url(url))
    except ValueError:
        return "a Redis URL that cannot be used"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _check_verified(query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        lax = (name == "ssl_cert_reqs" and value != "required") or (
            name == "ssl_check_hostname" and value.lower() in _NO
        )
        if lax:
            raise ValueError(
                f"{name}={value[:16]} would let anybody between here and the server read and answer; certificates are "
                "always checked. Name the authority that signed the server's with ssl_ca_certs=/path/ca.crt"
            )
