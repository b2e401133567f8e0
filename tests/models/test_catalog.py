import pytest

from models.catalog import Catalog
from models.errors import InvalidCard, UnknownModel
from models.networks import NETWORKS


@pytest.fixture
def folder(write_model):
    return write_model("mine", state=NETWORKS["lenet5"]().state_dict())


def test_the_three_places_are_searched(folder):
    catalog = Catalog(folder)
    assert catalog.find("mine").source == "user"
    assert catalog.find("lenet-digits").source == "bundled"
    assert catalog.find("resnet18").source == "torchvision"


def test_a_user_model_hides_others_of_its_name(write_model):
    catalog = Catalog(write_model("resnet18", network="torchvision:resnet18"))
    assert catalog.find("resnet18").source == "user"
    assert [entry.source for entry in catalog.entries() if entry.name == "resnet18"] == ["user"]


def test_a_pinned_name_finds_that_version_only(folder):
    entry = Catalog(folder).find("mine")
    assert Catalog(folder).find(f"mine@{entry.digest}").card == entry.card
    with pytest.raises(UnknownModel, match=f"here as {entry.target}"):
        Catalog(folder).find("mine@0123456789ab")


@pytest.mark.parametrize("edited", ["weights.safetensors", "own.py", "card.toml"])
def test_the_digest_follows_weights_code_and_card(folder, edited):
    (folder / "mine" / "own.py").write_text("one = 1\n")
    before = Catalog(folder).find("mine").digest
    path = folder / "mine" / edited
    if edited == "card.toml":
        path.write_text('labels = ["a"]\n' + path.read_text())
    else:
        path.write_bytes(b"two = 2")
    assert Catalog(folder).find("mine").digest != before


def test_a_stated_hash_does_not_change_the_digest(folder):
    from models.catalog import file_sha256

    before = Catalog(folder).find("mine").digest
    card = folder / "mine" / "card.toml"
    card.write_text(card.read_text() + f'sha256 = "{file_sha256(folder / "mine" / "weights.safetensors")}"\n')
    assert Catalog(folder).find("mine").digest == before


def test_an_unknown_model_lists_close_names(folder):
    with pytest.raises(UnknownModel) as caught:
        Catalog(folder).find("resnet19")
    assert "resnet18" in caught.value.details["close"]
    assert "resnet18" in caught.value.message


@pytest.mark.parametrize("name", ["", ".", "..", "../mine", "a/b", "a\\b", "zzzzzzzzzzzz", "\0", "a" * 300, "Mine"])
def test_a_name_that_is_none_is_unknown(folder, name):
    with pytest.raises(UnknownModel):
        Catalog(folder).find(name)


def test_a_broken_card_hurts_nobody_else_and_is_reported(folder, write_model):
    write_model("broken")
    (folder / "broken" / "card.toml").write_text("name = 3")
    catalog = Catalog(folder)
    assert [entry.name for entry in catalog.entries("user")] == ["mine"]
    assert [fault.details["file"] for fault in catalog.broken()] == [str(folder / "broken" / "card.toml")]
    with pytest.raises(InvalidCard):
        catalog.find("broken")


def test_a_missing_folder_holds_no_models(tmp_path):
    assert Catalog(tmp_path / "nowhere").entries("user") == []
