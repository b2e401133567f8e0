"""Retraining from a base and a folder to a model that loads and answers."""

import dataclasses
import shutil
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models import weights, zoo
from models.catalog import Catalog
from models.errors import InvalidDataset, ModelExists, RetrainFailed, UnknownModel, WeightsUnavailable
from models.features import Features, default_layer
from models.loading import hooks, load
from models.preprocess import Preprocess
from models.retrain.base import open_base
from models.retrain.options import RetrainOptions
from models.retrain.run import retrain
from tests.models.retrain.conftest import COLOURS, picture, write_base

QUICK = {"head": {"epochs": 30}, "svm": {}, "full": {"epochs": 2, "learning_rate": 1e-3}}


def options(mode="head", **more):
    return RetrainOptions(mode=mode, **{**QUICK[mode], "views": 2, "device": "cpu", **more})


def answers(models_folder, name, images):
    """What a worker of the new model would say, by its own path: card, weights, hooks, softmax."""
    entry = Catalog(models_folder).find(name)
    network, own = load(entry), hooks(entry)
    preprocess = own.preprocess or Preprocess(entry.card.preprocess)
    with torch.inference_mode():
        output = network(torch.stack([preprocess(image) for image in images]))
        logits = own.postprocess(output) if own.postprocess is not None else output
    return [entry.card.labels[index] for index in logits.argmax(1).tolist()], logits.softmax(1)


@pytest.mark.parametrize("mode", QUICK)
def test_a_model_is_made_that_loads_and_tells_new_pictures_apart(mode, write_images, models_folder):
    folder = write_images()
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    test = write_images("test", number=4, seed=70)
    stages = []
    made = retrain(
        "tiny", folder, "colours", models_folder, options=options(mode), test_images=test,
        report=lambda stage, *_: stages.append(stage),
    )  # fmt: skip
    assert [(one.name, one.num_images) for one in made.measured] == [("test", 12), ("validation", 6)]
    assert made.measured[0].accuracy == 1
    assert made.counts == {"blue": 8, "green": 8, "red": 8}
    assert made.num_training == 18
    assert [str(skipped.path) for skipped in made.skipped] == ["red/broken.png"]
    assert stages[0] == "reading images"
    fresh = [picture(COLOURS[label], 900 + index) for index, label in enumerate(sorted(COLOURS))]
    told, scores = answers(models_folder, "colours", fresh)
    assert told == sorted(COLOURS)
    assert float(scores.max(1).values.min()) > 0.4

    card = made.entry.card
    assert card.labels == ["blue", "green", "red"]
    assert card.tasks == ["classification", "embedding"]
    assert card.head.layer == "fc"
    assert (card.network, card.preprocess.resize) == ("own:Tiny", (16, 16))
    assert (made.entry.folder / "own.py").is_file()
    base = Catalog(models_folder).find("tiny")
    assert card.provenance.origin == f"Retrained from {base.target}"
    assert "blue 8, green 8, red 8); 1 files were left out" in card.provenance.data
    assert f"--base {base.target} --images {folder} --name colours --test-images {test}" in card.provenance.command
    assert (f"--mode {mode}" in card.provenance.command) == (mode != "head")
    assert "18 pictures trained on, 6 to validate" in card.provenance.notes
    assert [quality.value for quality in card.quality] == [one.accuracy for one in made.measured]
    assert "6 of 24 pictures, stratified by class, seed 0" in card.quality[1].split
    weights.check(made.entry, made.entry.folder / "weights.safetensors")
    with Image.open(made.entry.folder / "confusion.png") as confusion:
        assert min(confusion.size) > 300
    assert sorted(path.name for path in models_folder.iterdir()) == ["colours", "tiny"]


def test_frozen_features_leave_all_other_layers_as_they_were_and_full_does_not(write_images, models_folder):
    folder = write_images()
    before = load_file(models_folder / "tiny" / "weights.safetensors")
    for mode, changes in (("head", False), ("svm", False), ("full", True)):
        retrain("tiny", folder, mode, models_folder, options=options(mode, augmentation="none"))
        after = load_file(models_folder / mode / "weights.safetensors")
        assert after["fc.weight"].shape == (3, 16)
        moved = {name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])}
        assert bool(moved) is changes
        # The base's statistics stay.
        assert not any("running" in name for name in moved)


@pytest.mark.parametrize("mode", QUICK)
def test_the_same_seed_gives_the_same_bytes(mode, write_images, models_folder):
    folder, threads = write_images(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, seed in (("first", 3), ("second", 3), ("third", 4)):
            torch.manual_seed(len(name))
            retrain("tiny", folder, name, models_folder, options=options(mode, seed=seed))
    finally:
        torch.set_num_threads(threads)
    first, second, third = (
        (models_folder / name / "weights.safetensors").read_bytes() for name in ("first", "second", "third")
    )
    assert first == second
    assert first != third


def test_a_retrained_model_can_be_retrained_again(write_images, models_folder):
    retrain("tiny", write_images(), "colours", models_folder, options=options())
    two = write_images("two", classes=("red", "blue"), seed=40)
    made = retrain("colours", two, "two", models_folder, options=options("svm"))
    assert made.entry.card.labels == ["blue", "red"]
    assert made.entry.card.head.layer == "fc"
    assert answers(models_folder, "two", [picture(COLOURS["red"], 1)])[0] == ["red"]


def test_hooks_stay_where_the_network_needs_them(write_images, tmp_path):
    folder = write_base(tmp_path / "m", network="Wrapped", more='[hooks]\npostprocess = "own:unwrapped"')
    made = retrain("tiny", write_images(), "colours", folder, options=options("svm"))
    assert made.entry.card.hooks.postprocess == "own:unwrapped"
    assert answers(folder, "colours", [picture(COLOURS["green"], 1)])[0] == ["green"]


def test_a_hook_that_made_something_of_the_old_logits_goes(write_images, tmp_path):
    folder = write_base(tmp_path / "m", more='[hooks]\npostprocess = "own:doubled"')
    made = retrain("tiny", write_images(), "colours", folder, options=options())
    assert made.entry.card.hooks.postprocess is None


def test_what_stands_behind_the_head_is_noticed_and_full_trains_through_it(write_images, tmp_path):
    folder = write_base(tmp_path / "m", network="Doubled")
    with pytest.raises(RetrainFailed, match=r"something behind it changes them\. Use --mode full"):
        retrain("tiny", write_images(), "colours", folder, options=options())
    assert not (folder / "colours").exists()
    made = retrain("tiny", tmp_path / "images", "colours", folder, options=options("full"))
    assert made.measured[0].accuracy > 0.8


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Put generated weights of one of torchvision's networks where its published ones would lie."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def put(name, arguments):
        torch.manual_seed(0)
        state = zoo.builder(name)(**zoo.untrained_arguments(name, arguments)).state_dict()
        path = weights.weights_path(Catalog().find(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)

    monkeypatch.setattr(weights, "check", lambda *_: None)
    return put


ZOO = [
    ("mobilenet_v3_small", {}),
    ("squeezenet1_1", {}),
    *(
        pytest.param(name, arguments, marks=pytest.mark.slow)
        for name, arguments in (
            ("googlenet", {"aux_logits": True}),
            ("inception_v3", {"aux_logits": True}),
            ("vit_b_32", {}),
            ("swin_t", {}),
            ("maxvit_t", {}),
            ("densenet121", {}),
        )
    ),
]


@pytest.mark.parametrize(("name", "arguments"), ZOO)
def test_torchvisions_networks_are_retrained_and_rebuilt_as_they_were(name, arguments, publish, write_images, tmp_path):
    publish(name, arguments)
    images = write_images(number=4, classes=("red", "blue"))
    made = retrain(name, images, "mine", tmp_path / "models", options=options("svm", augmentation="none"))
    assert made.entry.source == "user"
    assert made.entry.card.network == f"torchvision:{name}"
    original, rebuilt = open_base(Catalog().find(name), "cpu"), load(made.entry)
    inputs = original.prepare(picture(COLOURS["red"], 5))[None]
    with torch.inference_mode():
        expected = original.features()(inputs)
        found = Features(rebuilt, default_layer(rebuilt, inputs))(inputs)
        assert rebuilt(inputs).shape == (1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"), [("inception_v3", {"aux_logits": True}), ("googlenet", {"aux_logits": True})]
)
def test_networks_with_auxiliary_heads_are_fine_tuned_without_them(name, arguments, publish, write_images, tmp_path):
    publish(name, arguments)
    images = write_images(number=4, classes=("red", "blue"))
    made = retrain(name, images, "mine", tmp_path / "models", options=options("full", epochs=1, batch=4))
    assert not any("aux" in key.lower() for key in load(made.entry).state_dict())


def test_weights_that_are_not_here_are_asked_for(write_images, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    with pytest.raises(WeightsUnavailable, match=r"resnet18-f37072fd\.pth"):
        retrain("resnet18", write_images(), "mine", tmp_path / "models")


def _no_network(url, timeout):
    raise OSError("no network in this test")


def test_an_existing_name_is_kept_unless_forced(write_images, models_folder):
    folder = write_images()
    retrain("tiny", folder, "mine", models_folder, options=options())
    digest = Catalog(models_folder).find("mine").digest
    with pytest.raises(ModelExists, match="replace it with --force"):
        retrain("tiny", folder, "mine", models_folder, options=options())
    with pytest.raises(ModelExists, match="'lenet-digits' is the name of a bundled model, which yours would hide"):
        retrain("tiny", folder, "lenet-digits", models_folder, options=options())
    assert Catalog(models_folder).find("mine").digest == digest
    retrain("tiny", folder, "mine", models_folder, options=options("svm"), force=True)
    assert Catalog(models_folder).find("mine").digest != digest
    assert sorted(path.name for path in models_folder.iterdir()) == ["mine", "tiny"]


def test_a_base_may_be_replaced_by_its_own_successor(write_images, models_folder):
    made = retrain("tiny", write_images(), "tiny", models_folder, options=options(), force=True)
    assert made.entry.card.labels == ["blue", "green", "red"]


def test_a_failure_leaves_the_old_model_and_nothing_else(write_images, models_folder, monkeypatch):
    folder = write_images()
    retrain("tiny", folder, "mine", models_folder, options=options())
    before = (models_folder / "mine" / "card.toml").read_text()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("models.retrain.writing.save_file", full)
    with pytest.raises(OSError, match="no space"):
        retrain("tiny", folder, "mine", models_folder, options=options("svm"), force=True)
    assert (models_folder / "mine" / "card.toml").read_text() == before
    assert sorted(path.name for path in models_folder.iterdir()) == ["mine", "tiny"]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"name": "My Model"}, RetrainFailed, "lower-case letters"),
        ({"base": "no-such"}, UnknownModel, "No model is called 'no-such'"),
        ({"options": RetrainOptions(device="cuda:77")}, RetrainFailed, "cuda:77"),
        ({"images": "nowhere"}, InvalidDataset, "one sub-folder"),
    ],
)
def test_what_cannot_be_done_says_why(change, error, says, write_images, models_folder, tmp_path):
    asked = {"base": "tiny", "images": write_images(), "name": "mine", "options": options(), **change}
    if isinstance(asked["images"], str):
        asked["images"] = tmp_path / asked["images"]
    with pytest.raises(error, match=says):
        retrain(models_folder=models_folder, **asked)
    assert not (models_folder / "mine").exists()


def test_a_base_that_does_not_classify_is_refused(write_images, models_folder):
    path = models_folder / "tiny" / "card.toml"
    path.write_text(path.read_text().replace('["classification"]', '["segmentation"]'))
    with pytest.raises(RetrainFailed, match="a base model that classifies, tiny does segmentation"):
        retrain("tiny", write_images(), "mine", models_folder)


def test_test_pictures_must_be_others(write_images, models_folder, tmp_path):
    folder = write_images()
    shutil.copytree(folder, tmp_path / "same")
    with pytest.raises(RetrainFailed, match="not among those to train on, got none"):
        retrain("tiny", folder, "mine", models_folder, options=options(), test_images=tmp_path / "same")


def test_the_command_in_the_card_names_every_option_that_is_not_the_default(write_images, models_folder):
    chosen = options("svm", seed=7, validation_fraction=0.25, augmentation="flip")
    made = retrain("tiny", write_images(), "mine", models_folder, options=chosen)
    words = made.entry.card.provenance.command.split()
    changed = {
        f"--{field.name.replace('_', '-')}": str(getattr(chosen, field.name))
        for field in dataclasses.fields(RetrainOptions)
        if getattr(chosen, field.name) != field.default
    }
    assert set(changed) == {"--mode", "--seed", "--validation-fraction", "--augmentation", "--views", "--device"}
    for option, value in changed.items():
        assert words[words.index(option) + 1] == value


def test_class_names_of_all_kinds_survive_the_card(write_images, models_folder):
    folder = write_images()
    for old, new in (("red", 'a "red" [one]'), ("green", "grün 猫"), ("blue", "C:\\blue")):
        (folder / old).rename(folder / new)
    made = retrain("tiny", folder, "mine", models_folder, options=options("svm"))
    assert made.entry.card.labels == sorted(['a "red" [one]', "grün 猫", "C:\\blue"])
    table = tomllib.loads((made.entry.folder / "card.toml").read_text())
    assert table["labels"] == made.entry.card.labels


def test_a_saved_state_shares_no_memory_between_tied_layers(write_images, models_folder):
    code = (models_folder / "tiny" / "own.py").read_text()
    tied = code.replace(
        "self.fc = nn.Linear(16, 4)\n", "self.fc = nn.Linear(16, 4)\n        self.twin = self.body[0]\n", 1
    )
    (models_folder / "tiny" / "own.py").write_text(tied)
    state = load_file(models_folder / "tiny" / "weights.safetensors")
    more = {f"twin.{part}": state[f"body.0.{part}"].clone() for part in ("weight", "bias")}
    save_file({**state, **more}, models_folder / "tiny" / "weights.safetensors")
    made = retrain("tiny", write_images(), "mine", models_folder, options=options("svm"))
    assert np.isfinite(made.measured[0].accuracy)
    load(made.entry)
