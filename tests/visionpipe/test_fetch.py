"""A worker reads whatever a reference names, or says in our words why not."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from visionpipe.errors import (
    ImageChangedError,
    ImageExpiredError,
    ImageNotFoundError,
    ImageTooLargeError,
    QueueUnavailableError,
    UnknownMediaRootError,
    UrlRefusedError,
)
from visionpipe.fetch import Fetcher
from visionpipe.media import MediaRoots
from visionpipe.schemas.images import BlobImage, ImageRef, InlineImage, MediaImage, UrlImage
from visionpipe.settings import Settings
from visionpipe.store import FsspecStore

REF: TypeAdapter[ImageRef] = TypeAdapter(ImageRef)


@pytest.fixture
def store(tmp_path: Path) -> FsspecStore:
    return FsspecStore(f"file://{tmp_path}/store")


@pytest.fixture
def fetcher(store: FsspecStore, tmp_path: Path) -> Fetcher:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "x.jpg").write_bytes(b"from a file")
    return Fetcher(store, Settings(max_image_bytes=100), {"scans": tmp_path / "scans"})


def test_every_kind_of_reference_is_fetched_after_its_way_through_json(fetcher, store, tmp_path):
    store.put("blob:j:0", b"from the store", 60)
    media = MediaRoots({"scans": tmp_path / "scans"}).reference(tmp_path / "scans" / "x.jpg")
    assert media is not None
    refs: list[tuple[ImageRef, bytes]] = [
        (InlineImage(data=b"\xff\xd8inline"), b"\xff\xd8inline"),
        (BlobImage(key="blob:j:0", size_bytes=14), b"from the store"),
        (media, b"from a file"),
    ]
    for ref, data in refs:
        assert fetcher.fetch(REF.validate_json(REF.dump_json(ref))) == data


def test_pixels_that_are_gone_have_expired(fetcher):
    with pytest.raises(ImageExpiredError, match="submit the image again"):
        fetcher.fetch(BlobImage(key="blob:j:0", size_bytes=1))


@pytest.mark.parametrize(("size", "sha256"), [(5, None), (4, "0" * 64)])
def test_pixels_that_are_not_the_submitted_ones_are_refused(fetcher, store, size, sha256):
    store.put("blob:j:0", b"four", 60)
    with pytest.raises(ImageChangedError, match="other bytes"):
        fetcher.fetch(BlobImage(key="blob:j:0", size_bytes=size, sha256=sha256))
    right = BlobImage(key="blob:j:0", size_bytes=4, sha256=hashlib.sha256(b"four").hexdigest())
    assert fetcher.fetch(right) == b"four"


def test_a_large_image_is_refused_without_reading_it(fetcher):
    with pytest.raises(ImageTooLargeError, match="limit is 100"):
        fetcher.fetch(BlobImage(key="blob:j:0", size_bytes=101))
    with pytest.raises(UnknownMediaRootError):
        fetcher.fetch(MediaImage(root="other", path="x", size_bytes=1, mtime_ns=0))


@pytest.mark.parametrize("fault", [PermissionError(13, "denied"), ConnectionResetError(), RuntimeError("no route")])
def test_a_store_that_cannot_be_read_is_no_fault_of_the_image(fetcher, store, monkeypatch, fault):
    ref = BlobImage(key="blob:j:0", size_bytes=4)
    monkeypatch.setattr(store._fs, "cat", lambda paths, **_: dict.fromkeys(paths, fault))
    with pytest.raises(QueueUnavailableError, match="store"):
        fetcher.fetch(ref)


def test_a_key_of_a_folder_names_no_image(fetcher, store):
    store.put("blob:j:0", b"four", 60)
    with pytest.raises(ImageExpiredError):
        fetcher.fetch(BlobImage(key="blob:j", size_bytes=4))


def test_a_key_that_would_leave_the_store_names_nothing(fetcher):
    with pytest.raises(ImageNotFoundError, match="expected a key"):
        fetcher.fetch(BlobImage(key="blob:..:x", size_bytes=1))


def test_urls_go_through_the_guard_also_from_many_threads(fetcher):
    refused: list[str] = []

    def fetch() -> None:
        with pytest.raises(UrlRefusedError) as caught:
            fetcher.fetch(UrlImage(url="http://127.0.0.1/x.jpg"))
        refused.append(caught.value.code)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["url_refused"] * 8
