"""Every file of a folder is named exactly once, in order, whatever it is called and wherever links lead."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionpipe.errors import RunConflictError
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.scan import Found, Scanner
from visionpipe.runs.spec import RunSpec


def scan(folder: Path, **how: object) -> dict[bytes, Found]:
    found = list(Scanner(os.fsencode(folder), **how))
    by_path = {entry.path: entry for entry in found}
    assert len(by_path) == len(found), "an entry was named twice"
    return by_path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_images_are_inputs_and_other_files_are_skipped_with_a_reason(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "notes.txt", "noextension", ".hidden.png", ".git/c.png", "jpg"):
        touch(tmp_path / name)
    found = scan(tmp_path)
    assert {path for path, entry in found.items() if entry.skip is None} == {b"a.jpg", b"sub/b.PNG"}
    assert {path: entry.skip for path, entry in found.items() if entry.skip} == {
        b"notes.txt": "other_type",
        b"noextension": "other_type",
        b"jpg": "other_type",
        b".hidden.png": "hidden",
        b".git": "hidden",
    }
    status = (tmp_path / "a.jpg").stat()
    assert (found[b"a.jpg"].size_bytes, found[b"a.jpg"].mtime_ns) == (1, status.st_mtime_ns)


def test_a_folder_named_like_an_image_is_entered(tmp_path):
    touch(tmp_path / "x.jpg" / "y.png")
    assert list(scan(tmp_path)) == [b"x.jpg/y.png"]


def test_names_that_are_not_utf8_are_kept_as_bytes(tmp_path):
    name = b"caf\xe9\xff.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert list(scan(tmp_path)) == [name]


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        (("*.dat",), {b"a.dat", b"sub/c.DAT"}),
        (("sub/*",), {b"sub/b.png", b"sub/c.DAT"}),
        (("a.*", "b.*"), {b"a.dat", b"sub/b.png"}),
    ],
)
def test_patterns_replace_the_usual_suffixes(tmp_path, patterns, taken):
    for name in ("a.dat", "sub/b.png", "sub/c.DAT"):
        touch(tmp_path / name)
    found = scan(tmp_path, patterns=patterns)
    assert {path for path, entry in found.items() if entry.skip is None} == taken
    assert len(found) == 3


def test_every_file_takes_all_but_hidden_ones(tmp_path):
    for name in ("a.dat", ".b.png"):
        touch(tmp_path / name)
    assert {path: entry.skip for path, entry in scan(tmp_path, every_file=True).items()} == {
        b".b.png": "hidden",
        b"a.dat": None,
    }


def test_a_link_to_nothing_is_an_error_when_it_should_have_been_an_image(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    found = scan(tmp_path)
    assert found[b"gone.jpg"].code == found[b"self.png"].code == "image_not_found"
    assert found[b"gone.txt"].skip == "other_type"


def test_links_to_files_are_followed_and_loops_of_folders_are_not(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    touch(outside / "far.png")
    touch(inside / "near.png")
    (inside / "link.png").symlink_to(outside / "far.png")
    (inside / "up").symlink_to("..")
    (inside / "me").symlink_to(".")
    (inside / "out").symlink_to(outside)
    (inside / "out2").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    found = scan(inside)
    inputs = {path for path, entry in found.items() if entry.skip is None}
    assert inputs == {b"link.png", b"near.png", b"out/far.png"}
    assert found[b"up/outside"].skip == "link_loop"
    assert found[b"me"].skip == "linked_inside"
    assert found[b"out/back"].skip == "linked_inside"
    assert found[b"out2"].skip == "link_loop"


def test_pipes_are_skipped_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert scan(tmp_path)[b"pipe.jpg"].skip == "not_a_file"


def test_the_output_folder_is_no_input(tmp_path):
    touch(tmp_path / "out" / "thumb.png")
    touch(tmp_path / "a.png")
    found = scan(tmp_path, leave_out=frozenset({os.path.realpath(os.fsencode(tmp_path / "out"))}))
    assert {path: entry.skip for path, entry in found.items()} == {b"a.png": None, b"out": "output"}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunConflictError, match="nowhere"):
        scan(tmp_path / "nowhere")


def test_a_folder_deeper_than_the_recursion_limit_is_walked(tmp_path):
    depth, here = 1500, os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("x.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    found = list(scan(tmp_path))
    # pytest would fail to remove so deep a folder, sessions later.
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
    assert found == [b"d/" * depth + b"x.png"]


NAMES = st.sampled_from(["a", "a.png", "a-b", "a b.png", "A.png", "z", "é.png", "a.", "aa"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12))
def test_the_order_is_that_of_whole_paths(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("order")
    for parts in paths:
        path = folder.joinpath(*parts)
        if not any(parent.is_file() for parent in [path, *path.parents]) and not path.exists():
            touch(path)
    order = list(scan(folder, every_file=True))
    assert order == sorted(order)
    assert len(order) == sum(path.is_file() for path in folder.rglob("*"))


def test_entering_files_costs_about_the_same_for_each_however_many_there_are(tmp_path):
    def entered_s(files_a_folder):
        spec = RunSpec(tmp_path / f"in-{files_a_folder}", "classification", "m")
        for folder in range(10):
            parent = spec.folder / f"{folder:02}"
            parent.mkdir(parents=True)
            for index in range(files_a_folder):
                os.mknod(parent / f"{index:04}.png")
        out = tmp_path / f"out-{files_a_folder}"
        out.mkdir()
        with Ledger(out, spec) as ledger:
            start = time.process_time()
            ledger.add(Scanner(spec.folder_bytes))
            taken = time.process_time() - start
            assert ledger.counts().pending == 10 * files_a_folder
        return taken

    few_s, many_s = entered_s(200), entered_s(2000)
    assert many_s < 20 * few_s
