"""Programs are read only where nobody else can have put them, and weights never run code."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from models import compiling, trust, weights
from models.cards import parse_card
from models.catalog import Catalog, Entry
from models.errors import CompileFailed, InvalidCard, ModelLoadFailed, WeightsMismatch
from models.loading import load

CARD = """
name = "{name}"
tasks = ["{task}"]
network = "{network}"
labels = ["cat"]
licence = "CC0-1.0"
[weights]
file = "{file}"
{hash}
[provenance]
origin = "made for a test"
"""
STRANGER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "code of the file ran")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What an attack that runs would write."""
    return tmp_path / "trace"


def model(
    folder: Path, name: str, file: str, *, network: str = "lenet", task: str = "classification", sha: str = ""
) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = CARD.format(name=name, file=file, network=network, task=task, hash=f'sha256 = "{sha}"' if sha else "")
    (folder / name / "card.toml").write_text(text)
    return folder / name / file


def plain_pickle(path: Path, attack: Attack) -> None:
    path.write_bytes(pickle.dumps({"state_dict": attack}))


def torch_archive(path: Path, attack: Attack) -> None:
    torch.save({"conv.weight": torch.zeros(1), "hidden": attack}, path)


def old_torch_file(path: Path, attack: Attack) -> None:
    torch.save({"conv.weight": torch.zeros(1), "hidden": attack}, path, _use_new_zipfile_serialization=False)


def compiled_module(path: Path, attack: Attack) -> None:
    """An archive as TorchScript writes them, with a pickle of our own in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/version", "3")
        archive.writestr("a/constants.pkl", pickle.dumps(()))
        archive.writestr("a/data.pkl", pickle.dumps(attack, 2))


# torch itself warns of some of them before it refuses.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.safetensors", "w"])
@pytest.mark.parametrize("write", [plain_pickle, torch_archive, old_torch_file, compiled_module])
def test_no_pickle_among_weights_runs_whatever_its_name(write, file, tmp_path, trace):
    write(model(tmp_path / "models", "mine", file), Attack(trace))
    with pytest.raises(WeightsMismatch):
        load(Catalog(tmp_path / "models").find("mine"))
    assert not trace.exists()


def test_the_attack_of_these_tests_would_work(tmp_path, trace):
    plain_pickle(tmp_path / "w.pt", Attack(trace))
    pickle.loads((tmp_path / "w.pt").read_bytes())
    assert trace.exists()


def test_a_checkpoint_outside_a_models_folder_is_never_unpickled(tmp_path, trace, monkeypatch):
    """A card of torchvision's registry has no folder; its downloads lie where anything may have put them."""
    monkeypatch.setattr(weights, "checkpoint_folder", lambda: tmp_path)
    plain_pickle(tmp_path / "w.pt", Attack(trace))
    text = CARD.format(name="x", file="w.pt", network="ultralytics:checkpoint", task="detection", hash="")
    with pytest.raises(InvalidCard, match="own folder"):
        load(Entry(parse_card(text, where="here"), None, "torchvision"))
    assert not trace.exists()


@pytest.mark.parametrize("writable", ["file", "folder"])
def test_a_checkpoint_that_everybody_may_write_is_not_unpickled(writable, tmp_path, trace):
    path = model(tmp_path / "models", "mine", "w.pt", network="ultralytics:checkpoint", task="detection")
    plain_pickle(path, Attack(trace))
    (path if writable == "file" else path.parent).chmod(0o777)
    with pytest.raises(ModelLoadFailed, match="everybody may write"):
        load(Catalog(tmp_path / "models").find("mine"))
    assert not trace.exists()


def test_a_request_cannot_name_a_file_or_a_place():
    from visionpipe.errors import InvalidRequestError
    from visionpipe.tasks import parse_request

    for target in ("../mine", "/tmp/mine", "mine/../x", "mine@../../x", "http://h/x", "a\nb", "ultralytics:checkpoint"):
        text = f'{{"task": "classification", "model": {target!r}, "images": []}}'.replace("'", '"')
        with pytest.raises(InvalidRequestError):
            parse_request(text)


def test_a_worker_whose_weights_are_not_those_of_the_card_does_not_start(tmp_path):
    bundled = Catalog().find("lenet-digits")
    data = bytearray((bundled.folder / bundled.card.weights.file).read_bytes())
    data[-1] ^= 1
    folder = tmp_path / "models" / "lenet-digits"
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text((bundled.folder / "card.toml").read_text().replace("parity", "#parity", 1))
    (folder / bundled.card.weights.file).write_bytes(data)
    env = {**os.environ, "VISIONPIPE_MODELS": str(tmp_path / "models"), "VISIONPIPE_REDIS_URL": "unix:///nowhere"}
    command = [sys.executable, "-P", "-m", "visionpipe", "worker", "lenet-digits"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "is not the file that the card of 'lenet-digits' names: expected sha256" in done.stderr


def test_what_lies_in_a_folder_of_ours_is_private(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"")
    assert trust.why_not_private(tmp_path / "a.pt2") is None


def test_a_folder_made_private_is_so_whatever_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        trust.make_private(tmp_path / "data" / "compiled")
        trust.make_private(tmp_path / "data" / "compiled")
    finally:
        os.umask(before)
    assert trust.why_not_private(tmp_path / "data" / "compiled") is None


@pytest.mark.parametrize("place", ["a.pt2", "", ".."])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
def test_what_others_may_write_or_replace_is_not(place, mode, tmp_path):
    folder = tmp_path / "data" / "compiled"
    folder.mkdir(parents=True)
    (folder / "a.pt2").write_bytes(b"")
    (folder / place).chmod(mode)
    assert "can be written by others" in str(trust.why_not_private(folder / "a.pt2"))


@as_root
@pytest.mark.parametrize("place", ["a.pt2", "", ".."])
def test_what_belongs_to_another_user_is_not(place, tmp_path):
    folder = tmp_path / "data" / "compiled"
    folder.mkdir(parents=True)
    (folder / "a.pt2").write_bytes(b"")
    os.chown(folder / place, STRANGER, STRANGER)
    assert f"belongs to user {STRANGER}" in str(trust.why_not_private(folder / "a.pt2"))


def test_a_link_is_not_and_neither_is_what_is_missing(tmp_path):
    (tmp_path / "b.pt2").write_bytes(b"")
    (tmp_path / "a.pt2").symlink_to("b.pt2")
    assert "symbolic link" in str(trust.why_not_private(tmp_path / "a.pt2"))
    assert "cannot be looked at" in str(trust.why_not_private(tmp_path / "none"))


def test_a_compiled_network_that_others_may_write_is_not_loaded(tmp_path):
    path = tmp_path / "a.pt2"
    path.write_bytes(b"a shared object that runs as soon as it is loaded")
    path.chmod(0o666)
    with pytest.raises(CompileFailed, match="can be written by others"):
        compiling.load_compiled(path)
