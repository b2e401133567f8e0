"""What every bundled model must bring with it."""

from __future__ import annotations

import hashlib
import re

import pytest

from models import parity
from models.cards import read_card
from models.catalog import BUNDLED_FOLDER, Catalog
from models.loading import load, parity_images
from models.recipes.__main__ import RECIPES

MAX_BYTES = 6 * 10**6
"""Of one model's weights."""
MAX_BYTES_TOGETHER = 25 * 10**6
"""Of all bundled weights."""

FOLDERS = sorted(path for path in BUNDLED_FOLDER.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


@pytest.fixture
def card(folder):
    return read_card(folder / "card.toml")


@pytest.fixture
def weights(folder, card):
    assert card.weights is not None
    assert card.weights.file is not None
    return folder / card.weights.file


def test_the_catalog_has_every_folder():
    assert {folder.name for folder in FOLDERS} == {entry.name for entry in Catalog().entries("bundled")}
    assert FOLDERS


def test_all_weights_together_are_small():
    sizes = {folder.name: sum(path.stat().st_size for path in folder.rglob("*.safetensors")) for folder in FOLDERS}
    assert sum(sizes.values()) <= MAX_BYTES_TOGETHER, sizes


def test_weights_are_small_and_those_of_the_card(weights, card):
    data = weights.read_bytes()
    assert len(data) <= MAX_BYTES
    assert card.weights.sha256 == hashlib.sha256(data).hexdigest()


def test_nothing_lies_beside_what_the_card_names(folder, card, weights):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"card.toml", card.weights.file, *card.parity}


def test_one_command_trains_it_anew(card):
    assert card.provenance.command == f"python -m models.recipes {card.name}"
    assert callable(RECIPES[card.name])


def test_the_card_says_how_good_it_is_on_what_was_held_out(card):
    assert card.quality
    # Style transfer minimises a loss on the very pictures it is given: nothing can be held out.
    assert card.tasks == ["style_transfer"] or any("held-out" in figure.split for figure in card.quality)
    # A command of ours, so that anybody can measure again.
    assert all((figure.command or "").startswith("python -m models.recipes") for figure in card.quality)


def test_the_card_says_what_it_was_trained_on_and_under_which_licence(card):
    assert card.provenance.data
    assert card.description
    # An SPDX identifier, so that a program can tell.
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", card.licence), card.licence
    assert card.licence == "AGPL-3.0-only" or "yolo" not in card.network, "ultralytics' networks are AGPL-3.0"


def test_its_parity_pictures_can_be_decoded(card):
    pictures = parity_images(Catalog().find(card.name))
    assert len(pictures) == (len(card.parity) or parity.NUM_SYNTHETIC)
    assert all(min(picture.size) > 1 for picture in pictures)


def test_the_network_takes_the_weights_and_has_as_many_parameters_as_the_card_says(card):
    network = load(Catalog().find(card.name))
    assert not network.training
    assert card.cost.num_params == sum(parameter.numel() for parameter in network.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
