import hashlib
import http.server
import pickle
import threading
from typing import Optional

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as registry
from torchvision.models import _api
from torchvision.transforms._presets import ImageClassification

from models import weights, zoo
from models.catalog import Catalog, Entry
from models.errors import WeightsMismatch, WeightsUnavailable
from models.loading import load
from models.networks import NETWORKS


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))


class Attack:
    def __reduce__(self):
        return print, ("code of the file ran",)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    folder = tmp_path / "torch-home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(tmp_path):
    """A checkpoint as torchvision publishes them: its name holds the first digits of its hash."""
    torch.manual_seed(0)
    torch.save(TinyNetwork().state_dict(), tmp_path / "tiny.pth")
    data = (tmp_path / "tiny.pth").read_bytes()
    return f"tiny-{hashlib.sha256(data).hexdigest()[:8]}.pth", data


@pytest.fixture
def entry(published, home, monkeypatch):
    """A tiny network in torchvision's own registry, found through the catalog like every other."""
    entries = []

    def register(base_url):
        class Tiny_Weights(registry.WeightsEnum):  # noqa: N801
            IMAGENET1K_V1 = registry.Weights(
                url=f"{base_url}/{published[0]}",
                transforms=lambda: ImageClassification(crop_size=4, resize_size=4),
                meta={"categories": ["cat", "dog"], "num_params": 8},
            )
            DEFAULT = IMAGENET1K_V1

        def tiny(*, weights: Optional[Tiny_Weights] = None) -> nn.Module:  # noqa: UP045
            weights = Tiny_Weights.verify(weights)
            network = TinyNetwork()
            if weights is not None:
                network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
            return network

        tiny.__module__ = "torchvision.models.tiny"
        monkeypatch.setitem(_api.BUILTIN_MODELS, "tiny", tiny)
        zoo._weights.cache_clear()
        entries.append(Catalog().find("tiny"))
        return entries[-1]

    yield register
    zoo._weights.cache_clear()


@pytest.fixture
def server(published):
    """A local web server that knows the checkpoint, and counts what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            name, data = published
            known = self.path in (f"/{name}", f"/short/{name}", f"/other/{name}")
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if known:
                body = {"short": data[:100], "other": bytes(len(data))}.get(self.path.split("/")[1], data)
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_weights_in_torchvisions_cache_are_used_without_a_network(entry, home, published):
    name, data = published
    (home / name).write_bytes(data)
    tiny = entry("http://127.0.0.1:9")
    assert weights.present(tiny)
    assert weights.pull(tiny) == home / name
    network = load(tiny)
    assert isinstance(network, TinyNetwork)
    assert torch.equal(network.linear.weight, torch.load(home / name, weights_only=True)["linear.weight"])


def test_weights_are_fetched_once_checked_and_reported(entry, home, published, server):
    url, asked = server
    tiny = entry(url)
    reports = []
    assert not weights.present(tiny)
    path = weights.pull(tiny, lambda done, total: reports.append((done, total)))
    assert path.read_bytes() == published[1]
    assert reports[-1] == (len(published[1]), len(published[1]))
    weights.pull(tiny)
    assert len(asked) == 1
    assert [file.name for file in home.iterdir()] == [published[0]]


@pytest.mark.parametrize(
    ("way", "error"),
    [("missing", WeightsUnavailable), ("short", WeightsUnavailable), ("other", WeightsMismatch)],
)
def test_a_failed_fetch_leaves_nothing_to_trip_over(entry, home, server, way, error):
    tiny = entry(f"{server[0]}/{way}")
    with pytest.raises(error):
        weights.pull(tiny)
    assert list(home.iterdir()) == []
    with pytest.raises(error):
        weights.pull(tiny)


def test_without_a_network_the_error_names_file_folder_hash_and_command(entry, home, published):
    tiny = entry("http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable) as caught:
        load(tiny)
    for needed in (published[0], str(home), published[0][5:13], "visionpipe models pull tiny"):
        assert needed in caught.value.message
    assert "127.0.0.1" not in caught.value.message
    assert caught.value.details["file"] == published[0]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_in_the_cache_is_refused(entry, home, published, damage):
    name, data = published
    damaged = {"truncated": data[:-10], "flipped": data[:-10] + b"0123456789", "empty": b""}[damage]
    (home / name).write_bytes(damaged)
    with pytest.raises(WeightsMismatch, match="is not the file that the card of 'tiny' names"):
        load(entry("http://127.0.0.1:9"))


def test_the_cache_folder_is_the_one_torch_uses(home):
    assert weights.checkpoint_folder() == home
    assert weights.checkpoint_folder().parent == type(home)(torch.hub.get_dir())


def _user_entry(root, file):
    card = root / "mine" / "card.toml"
    card.write_text(card.read_text() + f'[weights]\nfile = "{file}"\n')
    return Catalog(root).find("mine")


def test_a_user_file_that_is_missing_is_named(write_model):
    root = write_model("mine")
    with pytest.raises(WeightsUnavailable) as caught:
        load(_user_entry(root, "lost.safetensors"))
    assert "'lost.safetensors'" in caught.value.message
    assert str(root / "mine") in caught.value.message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older form"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torch_files_load_with_and_without_a_wrapper(write_model, wrapper, zipped):
    root = write_model("mine")
    state = NETWORKS["lenet5"]().state_dict()
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, root / "mine" / "w.pt", _use_new_zipfile_serialization=zipped)
    network = load(_user_entry(root, "w.pt"))
    assert torch.equal(network.c1.weight, state["c1.weight"])


def test_a_pickle_that_would_run_code_is_refused(write_model, capsys):
    root = write_model("mine")
    (root / "mine" / "w.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    torch.save({"weight": Attack()}, root / "mine" / "zip.pt")
    for file in ("w.pt", "zip.pt"):
        with pytest.raises(WeightsMismatch, match="tensors alone"):
            weights.read(root / "mine" / file)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(1000), b"\x80\x02}q\x00"], ids=["empty", "text", "zeros", "cut pickle"]
)
def test_files_of_something_else_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsMismatch):
        weights.read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_a_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    state = NETWORKS["lenet5"]().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsMismatch):
        weights.read(path)


def test_a_saved_list_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(WeightsMismatch, match=r"expected a state_dict .* got list"):
        weights.read(tmp_path / "w.pt")


def test_a_user_card_may_name_a_url(write_model, server, published):
    url, _ = server
    name = published[0]
    root = write_model("mine", network="own:TinyNetwork", code={"own.py": TINY_CODE})
    card = root / "mine" / "card.toml"
    card.write_text(card.read_text() + f'[weights]\nurl = "{url}/{name}"\nsha256 = "{name[5:13]}"\n')
    entry: Entry = Catalog(root).find("mine")
    before = entry.digest
    assert load(entry)(torch.zeros(1, 3, 4, 4)).shape == (1, 2)
    assert (root / "mine" / name).is_file()
    assert Catalog(root).find("mine").digest == before


TINY_CODE = """\
from torch import nn


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))
"""


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_weights_are_fetched_from_the_web_alone(entry, home, published, tmp_path, scheme):
    tiny = entry(f"{scheme}://{tmp_path}")
    with pytest.raises(WeightsUnavailable, match="only http and https"):
        weights.pull(tiny)
