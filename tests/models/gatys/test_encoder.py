"""Layers by VGG's names, taken from networks of VGG's kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.errors import ModelLoadFailed, UnknownLayer
from models.gatys import Encoder
from models.gatys.encoder import Reach
from models.networks.style_encoder import StyleEncoder


@pytest.fixture(scope="module")
def vgg19() -> nn.Module:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    # Without the classifier, which would take half a gigabyte.
    network = nn.Module()
    network.features = make_layers(cfgs["E"], batch_norm=False)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("relu1_1", 1),
        ("relu1_2", 3),
        ("relu2_1", 6),
        ("relu3_1", 11),
        ("relu4_1", 20),
        ("relu4_2", 22),
        ("relu5_1", 29),
    ],
)
def test_vgg_19_has_its_layers_where_torchvision_puts_them(vgg19: nn.Module, name: str, index: int) -> None:
    encoder = Encoder(vgg19, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert encoder.names.index(name) == index
    assert isinstance(vgg19.get_submodule(f"features.{index}"), nn.ReLU)


def test_features_are_those_of_the_network_with_average_pooling(vgg19: nn.Module) -> None:
    image = torch.rand(1, 3, 24, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    taken = Encoder(vgg19, mean=mean.tolist(), std=std.tolist())(image, {"conv1_1", "relu2_1"})
    expected = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    for index in range(7):
        layer = vgg19.get_submodule(f"features.{index}")
        expected = nn.functional.avg_pool2d(expected, 2) if isinstance(layer, nn.MaxPool2d) else layer(expected.clone())
        if index == 0:
            assert torch.equal(taken["conv1_1"], expected)
    assert torch.allclose(taken["relu2_1"], expected, atol=1e-5)


def test_the_network_keeps_its_own_pooling_and_weights(vgg19: nn.Module) -> None:
    before = vgg19.get_submodule("features.0").weight.clone()  # type: ignore[operator]
    Encoder(vgg19, mean=[0.5] * 3, std=[0.5] * 3)(torch.rand(1, 3, 16, 16), {"relu1_2"})
    assert isinstance(vgg19.get_submodule("features.4"), nn.MaxPool2d)
    assert torch.equal(vgg19.get_submodule("features.0").weight, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "reach"),
    [("relu1_1", Reach(1, 3)), ("pool1", Reach(2, 6)), ("relu2_1", Reach(2, 10))],
    ids=["one_convolution", "pooled", "behind_pooling"],
)
def test_it_knows_what_a_position_sees(encoder: Encoder, name: str, reach: Reach) -> None:
    assert encoder.reach[name] == reach
    image = torch.rand(1, 3, 40, 40, requires_grad=True)
    # Random weights leave some filters dark at one position; summed over all of them none is missed.
    maps = encoder(image, {name.replace("relu", "conv")})[name.replace("relu", "conv")]
    maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].square().sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=0).nonzero()
    assert int((seen.max(dim=0).values - seen.min(dim=0).values + 1).max()) <= reach.field


def test_batch_normalisation_is_passed_and_unknown_layers_are_not() -> None:
    from torchvision.models.vgg import make_layers

    network = nn.Module()
    network.features = make_layers([4, "M", 4], batch_norm=True)
    assert Encoder(network, mean=[0.5] * 3, std=[1.0] * 3).names == [
        "conv1_1", "bn1_1", "relu1_1", "pool1", "conv2_1", "bn2_1", "relu2_1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [nn.Conv2d(3, 3, 3), nn.ModuleDict({"features": nn.Conv2d(3, 3, 1)})],
    ids=["no_features", "no_sequential"],
)
def test_networks_of_another_kind_are_refused(network: nn.Module) -> None:
    with pytest.raises(ModelLoadFailed, match="Sequential 'features'"):
        Encoder(network, mean=[0.5] * 3, std=[1.0] * 3)


def test_so_are_features_with_other_layers() -> None:
    network = nn.Module()
    network.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh())
    with pytest.raises(ModelLoadFailed, match="got Tanh"):
        Encoder(network, mean=[0.5] * 3, std=[1.0] * 3)


def test_an_unknown_layer_is_told_with_those_like_it(encoder: Encoder) -> None:
    with pytest.raises(UnknownLayer, match=r"got 'relu9_1'\. It has relu"):
        encoder.check(["relu1_1", "relu9_1"])


def test_the_bundled_network_names_its_layers_as_vgg_does() -> None:
    network = StyleEncoder()
    assert list(dict(network.features.named_children())) == Encoder(network, mean=[0.5] * 3, std=[1.0] * 3).names
    assert network(torch.rand(2, 3, 64, 48)).shape == (2, 160, 4, 3)
