import subprocess
import sys

import pytest

from models.cards import Card, Preprocessing, parse_card, read_card
from models.errors import InvalidCard

GOOD = """
name = "mine"
tasks = ["classification", "embedding"]
network = "package.module:factory"
labels = ["cat", "dog"]
licence = "CC0-1.0"
parity = ["a.png"]

[arguments]
width = 3

[weights]
file = "weights.safetensors"
sha256 = "0123456789abcdef"

[preprocess]
resize = [32, 48]
crop = 24
interpolation = "bicubic"
mean = [0, 0.5, 0.5]
std = [1, 0.5, 0.5]

[hooks]
postprocess = "own:softened"

[serving]
max_batch = 8

[provenance]
origin = "a test"

[[quality]]
metric = "accuracy"
value = 0.5
split = "a coin"
"""


def test_a_card_says_what_its_toml_says():
    card = parse_card(GOOD, where="card.toml")
    assert card.tasks == ["classification", "embedding"]
    assert card.preprocess.resize == (32, 48)
    assert card.preprocess.input_size_hw == (24, 24)
    assert card.arguments == {"width": 3}
    assert card.hooks.postprocess == "own:softened"
    assert card.serving.max_batch == 8
    assert card.quality[0].value == 0.5


def test_a_card_survives_json():
    card = parse_card(GOOD, where="card.toml")
    assert Card.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "mine"', "", "name: expected a value, got nothing"),
        ('name = "mine"', 'name = "Mine!"', "name: "),
        ('name = "mine"', "name = ", "not valid TOML"),
        ("max_batch = 8", "max_batch = 0", "serving.max_batch: Input should be greater than or equal to 1; got 0"),
        ("max_batch = 8", 'max_batch = "8"', "serving.max_batch: Input should be a valid integer; got '8'"),
        ("max_batch = 8", "max_bunch = 8", "serving.max_bunch: no such field; got 8"),
        ('"embedding"', '"soothsaying"', "tasks.1: "),
        ("std = [1, 0.5, 0.5]", "std = [1, 0, 0.5]", "preprocess.std.1: Input should be greater than 0; got 0"),
        ("std = [1, 0.5, 0.5]", "std = [1.0]", "mode 'RGB' needs 3 value(s) each"),
        ('file = "weights.safetensors"', "", "give either file or url"),
        ('file = "weights.safetensors"', 'file = "../other/w.pt"', "must lie inside the model's folder"),
        ('sha256 = "0123456789abcdef"', 'sha256 = "xyz"', "weights.sha256: "),
        ('"package.module:factory"', '"import os"', "network: "),
        ('"own:softened"', '"own.softened"', "hooks.postprocess: "),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected_and_what_came(old, new, says):
    assert old in GOOD
    with pytest.raises(InvalidCard) as caught:
        parse_card(GOOD.replace(old, new), where="/there/card.toml")
    assert says in caught.value.message
    assert "/there/card.toml" in caught.value.message


def test_a_card_must_be_named_like_its_folder(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.toml").write_text(GOOD)
    with pytest.raises(InvalidCard, match="expected 'other', the name of the folder, got 'mine'"):
        read_card(tmp_path / "other" / "card.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "missing"])
def test_an_unreadable_card_is_invalid(tmp_path, content):
    if content is not None:
        (tmp_path / "card.toml").write_bytes(content)
    with pytest.raises(InvalidCard, match="cannot be read"):
        read_card(tmp_path / "card.toml")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["dog", "cat"]},
        {"arguments": {"width": 4}},
        {"preprocess": Preprocessing(resize=33)},
        {"network": "lenet5"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_affects_answers_changes_the_fingerprint(change):
    card = parse_card(GOOD, where="")
    assert card.model_copy(update=change).fingerprint(weights_sha256="a") != card.fingerprint(weights_sha256="a")


def test_weights_and_code_change_the_fingerprint_and_prose_does_not():
    card = parse_card(GOOD, where="")
    fingerprint = card.fingerprint(weights_sha256="a")
    assert len(fingerprint) == 12
    assert card.model_copy(update={"description": "better"}).fingerprint(weights_sha256="a") == fingerprint
    others = {card.fingerprint(weights_sha256="b"), card.fingerprint(weights_sha256="a", code_sha256="c")}
    assert fingerprint not in others
    assert len(others) == 2


def test_cards_and_catalog_load_neither_torch_nor_numpy():
    script = (
        "import sys, models.cards, models.catalog, models.weights, models.cli\n"
        "models.catalog.Catalog().find('lenet-digits').digest\n"
        "print([name for name in ('torch', 'torchvision', 'numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
