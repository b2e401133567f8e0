"""Both stores keep one contract."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from visionpipe.errors import QueueUnavailableError, SettingsError
from visionpipe.queue import connect
from visionpipe.settings import Settings
from visionpipe.store import FsspecStore, RedisStore, Store, open_store, put_artifact


@pytest.fixture(params=["redis", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param != "redis":
        url = f"file://{tmp_path}/pixels" if request.param == "file" else f"memory://test-{tmp_path.name}"
        yield FsspecStore(url)
        return
    with connect(request.getfixturevalue("redis_url")) as redis:
        yield RedisStore(redis)


def test_what_is_put_is_got_and_replaced_and_deleted(store):
    assert store.get("blob:j:0") is None
    store.put("blob:j:0", b"\x00pixels\xff", 60)
    store.put("blob:j:1", b"", 60)
    assert (store.get("blob:j:0"), store.get("blob:j:1")) == (b"\x00pixels\xff", b"")
    store.put("blob:j:0", b"others", 60)
    assert store.get("blob:j:0") == b"others"
    store.delete(["blob:j:0", "blob:never:0"])
    assert store.get("blob:j:0") is None
    assert store.get("blob:j:1") == b""


def test_a_value_expires_and_a_touched_one_lives_on(store):
    store.put("blob:j:0", b"a", 0.15)
    store.put("blob:j:1", b"b", 0.15)
    store.touch("blob:j:1", 60)
    store.touch("blob:never:0", 60)
    time.sleep(0.2)
    assert store.get("blob:j:0") is None
    assert store.get("blob:j:1") == b"b"
    assert store.get("blob:never:0") is None


def test_deleting_a_job_takes_its_blobs_and_nothing_else(store):
    kept = ["blob:job-10:0", "blob:job-1.x:0", f"upload:{'a' * 64}"]
    for key in ["blob:job-1:0", "blob:job-1:11", *kept]:
        store.put(key, key.encode(), 60)
    store.delete_job("job-1")
    store.delete_job("never")
    assert store.get("blob:job-1:0") is None
    assert store.get("blob:job-1:11") is None
    assert [store.get(key) for key in kept] == [key.encode() for key in kept]


def test_equal_artifacts_share_one_value(store):
    settings = Settings()
    first = put_artifact(store, b"mask", "image/png", settings)
    second = put_artifact(store, b"mask", "image/png", settings)
    assert first == second
    assert first.key == f"artifact:{hashlib.sha256(b'mask').hexdigest()}"
    assert first.size_bytes == 4
    assert store.get(first.key) == b"mask"


@pytest.mark.parametrize(
    "key",
    ["blob:../../etc:0", "blob:a/b:0", "upload:..", "blob:.hidden:0", "job:x:0", "blob:", "blob:a:b:c", "blob:a\n:0"],
)
def test_keys_that_could_leave_their_folder_are_refused(store, key):
    with pytest.raises(ValueError, match="expected a key"):
        store.put(key, b"x", 60)
    with pytest.raises(ValueError, match="expected a key"):
        store.get(key)


def test_gc_removes_expired_files_and_old_leftovers_only(tmp_path):
    store = FsspecStore(f"file://{tmp_path}")
    store.put("blob:old:0", b"x", 0.01)
    store.put("blob:new:0", b"x", 60)
    leftovers = [tmp_path / "blob/new" / name for name in ("1.tmp-old", "1.tmp-new")]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    os.utime(leftovers[0], (0, 0))
    time.sleep(0.02)
    assert store.gc() == 1
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"0", "0.expires", "1.tmp-new"}
    assert store.get("blob:new:0") == b"x"


@pytest.mark.parametrize("moment", ["find", "cat_file", "mv", "exists", "rm_file"])
@pytest.mark.parametrize("nth", [1, 2])
def test_what_is_stored_anew_while_gc_collects_it_stays(tmp_path, monkeypatch, moment, nth):
    store, other = (FsspecStore(f"file://{tmp_path}") for _ in range(2))
    key = f"upload:{'a' * 64}"
    store.put(key, b"pixels", 0.01)
    time.sleep(0.02)
    real, calls = getattr(store._fs, moment), []

    def meanwhile(*args, **options):
        calls.append(args)
        if len(calls) == nth:
            monkeypatch.setattr(store._fs, moment, real)
            other.put(key, b"pixels", 60)
        return real(*args, **options)

    monkeypatch.setattr(store._fs, moment, meanwhile)
    store.gc()
    if len(calls) >= nth:
        assert store.get(key) == b"pixels"


def test_files_are_plain_bytes_and_appear_whole(tmp_path):
    store = FsspecStore(f"file://{tmp_path}")
    big, small = b"A" * 2_000_000, b"B" * 1_000_000
    store.put("blob:j:0", small, 60)
    seen: set[bytes | None] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.get("blob:j:0"))

    reader = threading.Thread(target=read)
    reader.start()
    for data in [big, small] * 15:
        store.put("blob:j:0", data, 60)
    stop.set()
    reader.join()
    assert seen <= {big, small}
    assert (tmp_path / "blob/j/0").read_bytes() == small


def test_a_write_that_fails_leaves_the_old_value_and_no_leftover(tmp_path, monkeypatch):
    store = FsspecStore(f"file://{tmp_path}")
    store.put("blob:j:0", b"old", 60)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._fs, "mv", disk_full)
    with pytest.raises(QueueUnavailableError, match=r"OSError.*No space left"):
        store.put("blob:j:0", b"new", 60)
    assert store.get("blob:j:0") == b"old"
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_settings_choose_the_store(tmp_path, redis_url):
    with connect(redis_url) as redis:
        assert not open_store(Settings(), redis).external
        assert open_store(Settings(store_url=f"file://{tmp_path}"), redis).external
        with pytest.raises(SettingsError, match="VISIONPIPE_STORE_URL"):
            open_store(Settings(store_url="gopher://x"), redis)


def test_a_redis_that_is_away_is_told_as_our_error(tmp_path):
    with connect(f"unix://{tmp_path}/none.sock") as redis, pytest.raises(QueueUnavailableError):
        RedisStore(redis).get("blob:j:0")
