import pytest
import torch

from models.errors import InvalidCard
from models.networks import NETWORKS, find
from models.networks.lenet import LeNet5


def test_lenet_has_the_papers_layers():
    network = LeNet5()
    # 156 + 2416 + 48120 + 10164 + 850; the paper's partial connections and trained subsampling are left out.
    assert sum(parameter.numel() for parameter in network.parameters()) == 61_706
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert network.features(torch.zeros(2, 1, 32, 32)).shape == (2, 84)


@pytest.mark.parametrize("num_classes", [1, 26])
def test_classes_and_channels_are_arguments(num_classes):
    assert LeNet5(num_classes=num_classes, in_channels=3)(torch.zeros(1, 3, 32, 32)).shape == (1, num_classes)


def test_the_table_finds_every_network_and_lists_them_for_a_wrong_name():
    assert all(find(name) is builder for name, builder in NETWORKS.items())
    with pytest.raises(InvalidCard, match="lenet5"):
        find("lenet7")
