import os
import shutil

import pytest
import torch

from models.errors import InvalidDataset
from models.preprocess import Preprocess
from models.retrain import dataset
from models.retrain.dataset import read_folder, split
from models.retrain.options import unreported
from tests.models.retrain.conftest import COLOURS


@pytest.fixture
def read(base):
    return lambda folder, **options: read_folder(folder, base.prepare, unreported, **options)


def test_classes_are_the_sorted_folder_names_and_every_picture_has_its_class(write_images, read, base):
    data = read(write_images(number=5))
    assert data.labels == ["blue", "green", "red"]
    assert data.counts == {"blue": 5, "green": 5, "red": 5}
    assert [path.parts[0] for path in data.paths] == [data.labels[target] for target in data.targets]
    inputs = torch.cat(list(data.batches(range(len(data)), 4)))
    assert inputs.shape == (15, 3, 16, 16)
    # The brightest channel is the one that the class is named after.
    brightest = inputs.mean((2, 3)).argmax(dim=1)
    assert [("red", "green", "blue")[channel] for channel in brightest] == [
        data.labels[target] for target in data.targets
    ]


def test_bad_files_are_left_out_and_told(write_images, read):
    folder = write_images(number=5)
    (folder / "red" / "cut.png").write_bytes((folder / "red" / "00.png").read_bytes()[:60])
    (folder / "red" / "notes.txt").write_text("hello")
    (folder / "blue" / "empty.jpg").write_bytes(b"")
    (folder / "blue" / ".hidden.png").write_bytes(b"nothing")
    os.mkfifo(folder / "green" / "pipe")
    (folder / "green" / "gone.png").symlink_to(folder / "nowhere.png")
    data = read(folder)
    assert data.counts == {"blue": 5, "green": 5, "red": 5}
    told = {str(skipped.path): skipped.reason for skipped in data.skipped}
    assert set(told) == {"red/cut.png", "red/notes.txt", "blue/empty.jpg", "green/pipe", "green/gone.png"}
    assert "cut off" in told["red/cut.png"]
    assert told["green/pipe"] == "It is no regular file."


def test_a_second_copy_is_left_out_and_one_of_another_class_is_named(write_images, read):
    folder = write_images(number=5)
    shutil.copy(folder / "blue" / "03.png", folder / "blue" / "copy.png")
    shutil.copy(folder / "blue" / "04.png", folder / "red" / "strange.png")
    data = read(folder)
    told = {str(skipped.path): skipped.reason for skipped in data.skipped}
    assert told["blue/copy.png"].endswith("blue/03.png.")
    assert told["red/strange.png"].endswith("blue/04.png, which says that it is 'blue'.")


def test_pictures_may_lie_deeper(write_images, read):
    folder = write_images(number=5)
    (folder / "red" / "more" / "yet").mkdir(parents=True)
    (folder / "red" / "00.png").rename(folder / "red" / "more" / "yet" / "deep.png")
    assert read(folder).counts["red"] == 5


def test_test_pictures_that_were_trained_on_are_left_out(write_images, read):
    data = read(write_images(number=5))
    test = write_images("test", number=3, classes=("red", "blue"), seed=50)
    shutil.copy(data.folder / "red" / "00.png", test / "red" / "seen.png")
    held = read(test, unlike=data, min_images=0)
    assert held.labels == data.labels
    assert held.counts == {"blue": 3, "green": 0, "red": 3}
    assert [str(skipped.path) for skipped in held.skipped] == ["red/seen.png"]
    assert held.skipped[0].reason == f"It is a copy of {data.folder / 'red' / '00.png'}."


def test_a_test_folder_with_another_class_is_refused(write_images, read):
    data = read(write_images(number=5, classes=("red", "blue")))
    with pytest.raises(InvalidDataset, match="expected only the classes blue, red, got green"):
        read(write_images("test", number=3), unlike=data, min_images=0)


def test_a_folder_that_cannot_be_used_says_what_to_do(write_images, read, tmp_path):
    with pytest.raises(InvalidDataset, match="nowhere is none"):
        read(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(b"x")
    with pytest.raises(InvalidDataset, match=r"at least two, got none\. Make .*flat/CLASS/PICTURE\.jpg"):
        read(tmp_path / "flat")
    with pytest.raises(InvalidDataset, match="got only 'red'"):
        read(write_images("one", classes=("red",)))
    few = write_images("few", number=4)
    (few / "red" / "00.png").write_bytes(b"")
    with pytest.raises(
        InvalidDataset, match=r"at least 4 .* red \(3\)\. Add pictures.*1 files were left out; .*red/00"
    ) as error:
        read(few)
    assert error.value.details["counts"] == {"blue": 4, "green": 4, "red": 3}
    empty = write_images("empty", number=4)
    (empty / "violet").mkdir()
    with pytest.raises(InvalidDataset, match=r"violet \(0\)"):
        read(empty)


def test_beyond_the_memory_for_pictures_they_are_decoded_anew(write_images, read, monkeypatch):
    folder = write_images(number=5)
    kept = read(folder)
    monkeypatch.setattr(dataset, "CACHE_BYTES", 2 * 3 * 16 * 16 * 4)
    again = read(folder)
    assert (len(kept._kept), len(again._kept)) == (15, 2)
    for ours, theirs in zip(kept.batches(range(15), 4), again.batches(range(15), 4), strict=True):
        assert torch.equal(ours, theirs)


def test_the_digest_changes_with_pictures_and_classes(write_images, read):
    folder = write_images(number=5)
    first = read(folder).sha256
    assert read(folder).sha256 == first
    (folder / "red").rename(folder / "rot")
    assert read(folder).sha256 != first


@pytest.mark.parametrize(("fraction", "taken"), [(0.2, 2), (0.01, 1), (0.5, 4)])
def test_the_split_takes_the_same_part_of_every_class(write_images, read, fraction, taken):
    data = read(write_images(number=8))
    training, validation = split(data, fraction, seed=3)
    assert sorted(training + validation) == list(range(24))
    assert [data.target_array(validation).tolist().count(class_id) for class_id in range(3)] == [taken] * 3
    assert split(data, fraction, seed=3) == (training, validation)
    assert split(data, fraction, seed=4) != (training, validation)


def test_pictures_of_several_shapes_come_in_batches_of_one_shape(write_images, base):
    unsized = base.entry.card.preprocess.model_copy(update={"resize": None})
    data = read_folder(write_images(number=4), Preprocess(unsized), unreported)
    parts = list(data.batches(range(12), 5))
    assert sum(map(len, parts)) == 12
    assert len({part.shape[2:] for part in parts}) > 1
    assert len(COLOURS) == 3
