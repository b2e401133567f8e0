"""Which Redis URLs are used, and that none of them is repeated with its password."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from visionpipe.errors import QueueUnavailableError, SettingsError
from visionpipe.queue import connect, make_app
from visionpipe.redis_url import check_redis_url, shown
from visionpipe.settings import Settings, load_settings

SECRET = "hunter2"
GOOD = [
    "redis://h",
    "redis://user:p%40ss@h:6380/3",
    "unix:///run/redis.sock?db=2",
    "unix://user:pw@/run/redis.sock",
    "rediss://h:6379/0",
    "rediss://h/0?ssl_ca_certs=/etc/ca.crt&ssl_cert_reqs=required&ssl_check_hostname=true",
]
BAD = {
    "another scheme": f"http://user:{SECRET}@h",
    "no scheme": f"user:{SECRET}@h",
    "unverified": f"rediss://:{SECRET}@h/0?ssl_cert_reqs=none",
    "verified if it likes": f"rediss://:{SECRET}@h/0?ssl_cert_reqs=optional",
    "verified and not": f"rediss://:{SECRET}@h/0?ssl_cert_reqs=required&ssl_cert_reqs=none",
    "verified by nothing": f"rediss://:{SECRET}@h/0?ssl_cert_reqs=",
    "verified with spaces": f"rediss://:{SECRET}@h/0?ssl_cert_reqs=%20none",
    "another host's certificate": f"rediss://:{SECRET}@h/0?ssl_check_hostname=False",
    "several servers": f"redis://h;rediss://:{SECRET}@h?ssl_cert_reqs=none",
    "bracket in the password": f"redis://:[{SECRET}@h:6379/0",
    "slash in the password": f"redis://:a/{SECRET}@h:6379/0",
    "port beyond all": f"redis://:{SECRET}@h:99999",
}


@pytest.mark.parametrize("url", GOOD)
def test_what_can_be_used_is_given_back(url):
    assert check_redis_url(url) == url
    assert Settings(redis_url=url).redis_url == url


@pytest.mark.parametrize("url", BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_refused_by_every_door_without_a_word_of_the_password(url, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_REDIS_URL", url)
    doors = [
        (ValueError, lambda: check_redis_url(url)),
        (ValueError, lambda: Settings(redis_url=url)),
        (SettingsError, load_settings),
        (SettingsError, lambda: load_settings(redis_url=url)),
        (QueueUnavailableError, lambda: connect(url)),
        (ValueError, lambda: make_app(url)),
    ]
    for kind, door in doors:
        with pytest.raises(kind) as caught:
            door()
        assert SECRET not in _everything_said(caught.value)


def _everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error} {error!r} "
        error = error.__cause__
    return said


def test_settings_show_no_password():
    settings = Settings(redis_url=f"redis://:{SECRET}@h", store_url=f"s3://key:{SECRET}@bucket")
    assert SECRET not in f"{settings} {settings!r}"
    with pytest.raises(SettingsError) as caught:
        load_settings(store_url=[SECRET])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"redis://me:{SECRET}@h:1/2?x={SECRET}", "redis://h:1/2"),
        (f"unix://:{SECRET}@/run/s.sock", "unix:///run/s.sock"),
        (f"redis://[{SECRET}", "a Redis URL that cannot be used"),
    ],
)
def test_what_is_shown_of_a_url_is_where_it_leads(url, expected):
    assert shown(url) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process rewrite its command line")
def test_a_password_on_the_command_line_is_gone_from_the_list_of_processes(tmp_path: Path):
    code = "import sys; from visionpipe.cli.title import hide_passwords as hide; hide(); print(sys.argv[2]); input()"
    url = f"redis://me:{SECRET}@h:1/0"
    command = [sys.executable, "-u", "-c", code, "--redis-url", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{url}\n"
        until = time.monotonic() + 5
        while SECRET in (title := Path(f"/proc/{process.pid}/cmdline").read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        process.communicate("\n")
    assert f"redis://{'*' * len(f'me:{SECRET}')}@h:1/0" in title
