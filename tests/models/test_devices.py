import pytest
import torch

from models.devices import pick_device
from models.errors import NoSuchDevice, UnsupportedOption


@pytest.fixture
def visible(monkeypatch):
    """Makes the machine show so many CUDA devices."""

    def show(number):
        monkeypatch.setattr("torch.cuda.is_available", lambda: number > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: number)

    return show


@pytest.mark.parametrize("wanted", ["tpu:9", "nonsense", "", "cuda", "cuda:0", "meta"])
def test_a_device_that_is_not_here_is_refused_with_a_way_out(wanted, visible):
    visible(0)
    with pytest.raises(NoSuchDevice, match=r"Expected a device .*cpu") as caught:
        pick_device(wanted)
    assert isinstance(caught.value, UnsupportedOption)
    assert caught.value.code == "invalid_settings"


@pytest.mark.parametrize(
    ("number", "wanted", "found"),
    [(0, "auto", "cpu"), (2, "auto", "cuda:0"), (2, "cpu", "cpu"), (2, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1")],
)
def test_a_device_is_chosen_by_name_and_always_has_its_index(number, wanted, found, visible):
    visible(number)
    assert pick_device(wanted) == torch.device(found)


def test_a_device_beyond_the_last_is_refused_and_the_message_counts_them(visible):
    visible(2)
    with pytest.raises(NoSuchDevice, match=r"got 'cuda:2'; it shows 2 CUDA devices"):
        pick_device("cuda:2")
