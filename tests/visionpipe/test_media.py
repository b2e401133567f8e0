"""Media roots are read by reference, and never left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from visionpipe import file_reading, media
from visionpipe.errors import (
    ImageChangedError,
    ImageNotFoundError,
    ImageTooLargeError,
    TooManyFilesError,
    UnknownMediaRootError,
)
from visionpipe.file_reading import read_file
from visionpipe.media import MediaRoots
from visionpipe.schemas.images import MediaImage

MAX = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "x.jpg").write_bytes(b"pixels")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


@pytest.fixture(params=[-1, 10**30], ids=["looked at once", "looked at twice"])
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reading, "SETTLED_NS", request.param)


def _ref(path: str, size: int = 6, mtime_ns: int = 0) -> MediaImage:
    return MediaImage(root="scans", path=path, size_bytes=size, mtime_ns=mtime_ns)


@pytest.mark.usefixtures("looks")
def test_a_file_below_a_root_is_named_and_read_by_reference(root):
    roots = MediaRoots({"scans": root})
    ref = roots.reference(root / "a" / ".." / "a" / "b" / "x.jpg", "mine")
    assert ref is not None
    assert (ref.root, ref.path, ref.size_bytes, ref.name) == ("scans", "a/b/x.jpg", 6, "mine")
    assert roots.read(MediaImage.model_validate_json(ref.model_dump_json()), max_bytes=MAX) == b"pixels"


def test_the_innermost_of_the_allowed_roots_is_taken(root):
    roots = MediaRoots({"scans": root, "inner": root / "a", "other": root / "a" / "b"})
    inner = roots.reference(root / "a/b/x.jpg", among={"scans", "inner"})
    assert inner is not None
    assert (inner.root, inner.path) == ("inner", "b/x.jpg")
    assert roots.reference(root / "a/b/x.jpg", among=()) is None


def test_a_link_inside_the_root_is_resolved_by_the_client(root):
    (root / "link.jpg").symlink_to("a/b/x.jpg")
    ref = MediaRoots({"scans": root}).reference(root / "link.jpg")
    assert ref is not None
    assert ref.path == "a/b/x.jpg"


def test_files_outside_and_names_that_are_no_text_get_no_reference(root, tmp_path):
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    strange = os.fsdecode(os.fsencode(root) + b"/\xff\xfe.jpg")
    Path(strange).write_bytes(b"x")
    roots = MediaRoots({"scans": root})
    assert roots.reference(tmp_path / "secret.jpg") is None
    assert roots.reference(root / "out.jpg") is None
    assert roots.reference(Path(strange)) is None
    assert roots.reference(root / "a\0b.jpg") is None


def test_missing_files_and_folders_have_no_reference_but_an_error(root):
    roots = MediaRoots({"scans": root})
    with pytest.raises(ImageNotFoundError, match="No such file"):
        roots.reference(root / "none.jpg")
    with pytest.raises(ImageNotFoundError, match="not a regular file"):
        roots.reference(root / "a")


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "a//b/x.jpg", "a/./b/x.jpg", "a\0"]
)
def test_a_path_that_is_not_plain_is_refused(root, path):
    with pytest.raises(UnknownMediaRootError, match="must not leave"):
        MediaRoots({"scans": root}).read(_ref(path), max_bytes=MAX)


def test_a_root_that_is_not_mounted_is_refused_and_the_mounted_ones_are_named(root):
    with pytest.raises(UnknownMediaRootError, match=r"'scans' is not mounted.*other"):
        MediaRoots({"other": root}).read(_ref("a/b/x.jpg"), max_bytes=MAX)


def test_symbolic_links_are_not_followed_by_the_reader(root, tmp_path):
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "up").symlink_to(tmp_path)
    roots = MediaRoots({"scans": root})
    with pytest.raises(UnknownMediaRootError, match="symbolic link"):
        roots.read(_ref("out.jpg"), max_bytes=MAX)
    with pytest.raises((UnknownMediaRootError, ImageNotFoundError)):
        roots.read(_ref("up/secret.jpg"), max_bytes=MAX)


@pytest.mark.usefixtures("looks")
def test_another_size_or_time_is_a_changed_image(root):
    roots = MediaRoots({"scans": root})
    ref = roots.reference(root / "a/b/x.jpg")
    assert ref is not None
    os.utime(root / "a/b/x.jpg", ns=(0, ref.mtime_ns + 1))
    with pytest.raises(ImageChangedError, match="has changed"):
        roots.read(ref, max_bytes=MAX)
    (root / "a/b/x.jpg").write_bytes(b"longer than before")
    with pytest.raises(ImageChangedError):
        roots.read(ref, max_bytes=MAX)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(root, monkeypatch):
    path = root / "a/b/x.jpg"
    real = os.read

    def slow(fd: int, size: int) -> bytes:
        path.write_bytes(b"PIXELS and more")
        return real(fd, size)

    monkeypatch.setattr(media.os, "read", slow)
    with pytest.raises(ImageChangedError, match="while it was read"):
        read_file(path, max_bytes=MAX)


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize("written", [b"PIXELS and more", b"PIXELS", b"pix"], ids=["longer", "as long", "shorter"])
def test_a_referenced_file_that_is_written_to_while_it_is_read_is_refused(root, monkeypatch, written: bytes):
    path, roots = root / "a/b/x.jpg", MediaRoots({"scans": root})
    os.utime(path, ns=(0, 1))
    ref = roots.reference(path)
    assert ref is not None
    for name in ("read", "pread"):
        real = getattr(os, name)

        def slow(*how: int, real=real) -> bytes:
            path.write_bytes(written)
            return real(*how)

        monkeypatch.setattr(media.os, name, slow)
    with pytest.raises(ImageChangedError, match=r"changed|written"):
        roots.read(ref, max_bytes=MAX)


def test_a_file_whose_time_is_set_back_after_it_was_written_to_is_read_whole(root, monkeypatch):
    path, roots = root / "a/b/x.jpg", MediaRoots({"scans": root})
    ref = roots.reference(path)
    assert ref is not None

    def torn(_fd: int, _size: int, _offset: int) -> bytes:
        path.write_bytes(b"PIXELS")
        os.utime(path, ns=(0, ref.mtime_ns))
        return b"pixELS"

    monkeypatch.setattr(media.os, "pread", torn)
    assert roots.read(ref, max_bytes=MAX) == b"PIXELS"


def test_a_large_file_is_refused_before_it_is_read(root):
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageTooLargeError, match="limit is 1000"):
        read_file(root / "huge.jpg", max_bytes=MAX)


@pytest.mark.timeout(10)
@pytest.mark.usefixtures("looks")
def test_pipes_folders_and_missing_files_are_refused_without_hanging(root):
    os.mkfifo(root / "pipe.jpg")
    for name, reason in [("pipe.jpg", "not a regular"), ("a", "not a regular"), ("none", "No such"), ("n\0l", "null")]:
        with pytest.raises(ImageNotFoundError, match=reason):
            read_file(root / name, max_bytes=MAX)
    for name in ("pipe.jpg", "a"):
        with pytest.raises(ImageNotFoundError, match="not a regular"):
            MediaRoots({"scans": root}).read(_ref(name), max_bytes=MAX)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(root):
    (root / "a/b/x.jpg").chmod(0)
    with pytest.raises(ImageNotFoundError, match="Permission denied"):
        read_file(root / "a/b/x.jpg", max_bytes=MAX)


def test_no_descriptor_is_left_open(root):
    roots = MediaRoots({"scans": root})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("a/b/x.jpg", "a/none", "a", "none/x"):
        for _ in range(5):
            with pytest.raises((ImageNotFoundError, ImageChangedError)):
                roots.read(_ref(path), max_bytes=MAX)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_path_of_thousands_of_folders_is_refused_like_any_that_is_not_there(root):
    for path in ("a/" * 2000 + "x", "a/" * 101 + "x"):
        with pytest.raises(ImageNotFoundError, match="100 folders deep"):
            MediaRoots({"scans": root}).read(_ref(path), max_bytes=MAX)


def test_many_deep_folders_do_not_use_up_the_descriptors(root):
    roots, most = MediaRoots({"scans": root}), 0
    with media.Folders() as folders:
        for number in range(12):
            deep = root / f"n{number}" / Path(*["d"] * 60)
            deep.mkdir(parents=True)
            (deep / "x.jpg").write_bytes(b"pixels")
            ref = roots.reference(deep / "x.jpg")
            assert ref is not None
            assert roots.read(ref, max_bytes=MAX, folders=folders) == b"pixels"
            most = max(most, len(folders._open))
    assert 8 <= most <= media.MAX_OPEN
    assert not folders._open


def few_descriptors(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let ``media`` have so many files open, as a process does whose limit is nearly reached."""
    held: set[int] = set()

    def open_one(*args, **kwargs) -> int:
        if len(held) >= free:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        held.add(fd := real_open(*args, **kwargs))
        return fd

    def close_one(fd: int) -> None:
        held.discard(fd)
        real_close(fd)

    real_open, real_close = os.open, os.close
    monkeypatch.setattr(media.os, "open", open_one)
    monkeypatch.setattr(media.os, "close", close_one)


def test_open_folders_give_way_when_descriptors_run_out(root, monkeypatch):
    roots = MediaRoots({"scans": root})
    names = [f"n{number}/x.jpg" for number in range(6)]
    for name in names:
        (root / name).parent.mkdir()
        (root / name).write_bytes(b"pixels")
    refs = [roots.reference(root / name) for name in names]
    few_descriptors(monkeypatch, 4)
    with media.Folders() as folders:
        assert [roots.read(ref, max_bytes=MAX, folders=folders) for ref in refs] == [b"pixels"] * 6


def test_without_any_descriptor_left_it_is_worth_another_try(root, monkeypatch):
    roots = MediaRoots({"scans": root})
    ref = roots.reference(root / "a/b/x.jpg")
    few_descriptors(monkeypatch, 2)
    with pytest.raises(TooManyFilesError, match="Too many open files") as caught:
        roots.read(ref, max_bytes=MAX)
    assert caught.value.retryable
    few_descriptors(monkeypatch, 0)
    with pytest.raises(TooManyFilesError):
        read_file(root / "a/b/x.jpg", max_bytes=MAX)


@pytest.mark.parametrize("swapped", ["scans/a", "scans/a/b", "scans/a/b/x.jpg"])
def test_what_becomes_a_link_after_it_was_submitted_is_not_followed(root, tmp_path, swapped):
    roots = MediaRoots({"scans": root})
    ref = roots.reference(root / "a/b/x.jpg")
    assert ref is not None
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    for secret in (outside / "b" / "x.jpg", outside / "x.jpg"):
        secret.write_bytes(b"secret")
        os.utime(secret, ns=(0, ref.mtime_ns))
    place = tmp_path / swapped
    place.rename(tmp_path / "away")
    place.symlink_to({"scans/a": outside, "scans/a/b": outside, "scans/a/b/x.jpg": outside / "x.jpg"}[swapped])
    with pytest.raises((UnknownMediaRootError, ImageNotFoundError)):
        roots.read(ref, max_bytes=MAX)
