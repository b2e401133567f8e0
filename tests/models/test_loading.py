import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models as registry

from models.catalog import Catalog
from models.errors import InvalidCard, ModelLoadFailed, WeightsMismatch
from models.images import Preprocess
from models.loading import hooks, load, parity_images
from models.networks import NETWORKS

KNOWN_ANSWERS = Path(__file__).parent / "known_answers" / "lenet_digits.json"

OWN_CODE = """\
import dataclasses

import torch
from torch import nn


@dataclasses.dataclass
class Sizes:
    width: int


def small(width=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, Sizes(width).width))


def mean_colour(image):
    levels = torch.frombuffer(bytearray(image.resize((2, 2)).tobytes()), dtype=torch.uint8)
    return levels.reshape(2, 2, 3).permute(2, 0, 1) / 255


def halved(logits):
    return logits / 2


def number():
    return 3


def failing(width):
    raise ValueError("no such width")
"""


def test_the_bundled_model_answers_its_parity_pictures_with_the_known_logits():
    entry = Catalog().find("lenet-digits")
    network, preprocess = load(entry), Preprocess(entry.card.preprocess)
    inputs = torch.stack([preprocess(image) for image in parity_images(entry)])
    known = json.loads(KNOWN_ANSWERS.read_text())
    assert known["digest"] == entry.digest
    torch.testing.assert_close(network(inputs), torch.tensor(known["logits"]), rtol=0, atol=1e-4)


def test_a_loaded_network_is_ready_to_serve():
    network = load(Catalog().find("lenet-digits"))
    assert not network.training
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_half_precision_weights_become_float32(write_model):
    state = {name: value.half() for name, value in NETWORKS["lenet5"]().state_dict().items()}
    network = load(Catalog(write_model(state=state)).find("mine"))
    assert network.c1.weight.dtype is torch.float32


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "googlenet"])
def test_a_user_card_may_name_a_network_of_torchvisions_with_other_classes(write_model, name):
    torch.manual_seed(1)
    heads = "aux_logits = false\n" if name == "googlenet" else ""
    arguments = {"num_classes": 3} | ({"aux_logits": False, "init_weights": False} if heads else {})
    state = registry.get_model(name, weights=None, **arguments).state_dict()
    more = f"[arguments]\nnum_classes = 3\n{heads}"
    root = write_model(network=f"torchvision:{name}", state=state, more=more)
    network = load(Catalog(root).find("mine"))
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if value.is_floating_point())


def test_own_code_in_the_models_folder_makes_network_and_hooks(write_model):
    more = '[arguments]\nwidth = 5\n[hooks]\npreprocess = "own:mean_colour"\npostprocess = "own:halved"\n'
    root = write_model(network="own:small", more=more, code={"own.py": OWN_CODE})
    entry = Catalog(root).find("mine")
    network, own = load(entry), hooks(entry)
    picture = Image.new("RGB", (6, 6), (255, 0, 0))
    answer = network(own.preprocess(picture)[None])
    assert answer.shape == (1, 5)
    assert torch.equal(own.postprocess(answer), answer / 2)
    assert str(root / "mine") not in sys.path


def test_two_folders_may_hold_modules_of_one_name(write_model):
    write_model("one", network="own:small", code={"own.py": OWN_CODE})
    root = write_model("two", network="own:small", code={"own.py": OWN_CODE.replace("width=2", "width=7")})
    widths = [load(Catalog(root).find(name))(torch.zeros(1, 3, 4)).shape[1] for name in ("one", "two")]
    assert widths == [2, 7]


def test_edited_code_is_loaded_anew(write_model):
    root = write_model(network="own:small", code={"own.py": OWN_CODE})
    assert load(Catalog(root).find("mine"))[1].out_features == 2
    write_model(network="own:small", code={"own.py": OWN_CODE.replace("width=2", "width=19")})
    assert load(Catalog(root).find("mine"))[1].out_features == 19


def test_a_file_may_import_its_neighbour(write_model):
    neighbour = "from .own import small\n\n\ndef wide():\n    return small(width=11)\n"
    root = write_model(network="wide:wide", code={"own.py": OWN_CODE, "wide.py": neighbour})
    assert load(Catalog(root).find("mine"))[1].out_features == 11


def test_a_module_may_lie_in_a_subfolder_or_be_installed(write_model):
    root = write_model(network="parts.net:small")
    (root / "mine" / "parts").mkdir()
    (root / "mine" / "parts" / "net.py").write_text(OWN_CODE)
    assert load(Catalog(root).find("mine"))[1].out_features == 2
    root = write_model("installed", network="torch.nn:Identity")
    assert isinstance(load(Catalog(root).find("installed")), torch.nn.Identity)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("lenet6", "got 'lenet6'"),
        ("torchvision:resnet19", "no network 'resnet19'"),
        ("own:nothing", "expected a function 'nothing'"),
        ("own:number", "to give a torch.nn.Module, got int"),
        ("own:failing", "own:failing with arguments {} failed with TypeError"),
        ("bad:small", "bad.py failed with SyntaxError"),
        ("raising:small", "raising.py failed with ZeroDivisionError"),
        ("nowhere.at_all:small", "nowhere.at_all"),
        ("torch.nn:Linear", "failed with TypeError"),
    ],
)
def test_a_network_that_cannot_be_built_is_this_models_fault(write_model, network, says):
    code = {"own.py": OWN_CODE, "bad.py": "def", "raising.py": "1 / 0"}
    root = write_model(network=network, code=code)
    with pytest.raises(ModelLoadFailed) as caught:
        load(Catalog(root).find("mine"))
    assert says in caught.value.message
    assert caught.value.code == "model_load_failed"


def test_a_failing_factory_reports_its_arguments_and_error(write_model):
    root = write_model(network="own:failing", more="[arguments]\nwidth = 3\n", code={"own.py": OWN_CODE})
    with pytest.raises(ModelLoadFailed, match=r"\{'width': 3\} failed with ValueError: no such width"):
        load(Catalog(root).find("mine"))


def test_a_hook_that_is_not_there_is_named(write_model):
    root = write_model(more='[hooks]\npostprocess = "own:soften"\n', code={"own.py": OWN_CODE})
    with pytest.raises(ModelLoadFailed, match="expected a function 'soften'"):
        hooks(Catalog(root).find("mine"))


def test_missing_and_unexpected_tensors_are_named(write_model):
    state = NETWORKS["lenet5"]().state_dict()
    state["c1.wait"] = state.pop("c1.weight")
    with pytest.raises(WeightsMismatch, match=r"c1\.weight missing, c1\.wait unexpected"):
        load(Catalog(write_model(state=state)).find("mine"))


def test_tensors_of_another_shape_are_named(write_model):
    state = NETWORKS["lenet5"](num_classes=7).state_dict()
    with pytest.raises(WeightsMismatch, match=r"output\.weight"):
        load(Catalog(write_model(state=state)).find("mine"))


def test_parity_pictures_of_a_card_are_read_and_synthetic_ones_repeat(write_model):
    own, bundled = Catalog(write_model()).find("mine"), Catalog().find("lenet-digits")
    assert [image.size for image in parity_images(bundled)] == [(8, 8)] * 10
    first, second = parity_images(own), parity_images(own)
    assert all(image.tobytes() == again.tobytes() for image, again in zip(first, second, strict=True))
    assert len({image.tobytes() for image in first}) == len(first) >= 4
    assert {image.mode for image in first} == {"RGB"}


def test_a_missing_parity_picture_is_named(write_model):
    root = write_model(more='parity = ["gone.png"]')
    with pytest.raises(InvalidCard, match=r"gone\.png"):
        parity_images(Catalog(root).find("mine"))
