"""Features of every classification network against what torchvision's own layers say."""

import warnings

import pytest
import torch
from torch import nn
from torchvision import models as registry
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from models import zoo
from models.errors import ModelLoadFailed, UnknownLayer
from models.features import Features, default_layer, pool
from models.heads import fill_head, find_head, num_features, replace_head
from models.networks.lenet import LeNet5

HEADS = {
    "alexnet": ("classifier.6", 4096),
    "convnext_tiny": ("classifier.2", 768),
    "densenet121": ("classifier", 1024),
    "efficientnet_b0": ("classifier.1", 1280),
    "googlenet": ("fc", 1024),
    "inception_v3": ("fc", 2048),
    "maxvit_t": ("classifier.5", 512),
    "mnasnet0_5": ("classifier.1", 1280),
    "mobilenet_v2": ("classifier.1", 1280),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "regnet_y_400mf": ("fc", 440),
    "resnet18": ("fc", 512),
    "resnext50_32x4d": ("fc", 2048),
    "shufflenet_v2_x0_5": ("fc", 1024),
    "squeezenet1_1": ("classifier", 512),
    "swin_t": ("head", 768),
    "swin_v2_t": ("head", 768),
    "vgg11_bn": ("classifier.6", 4096),
    "vit_b_32": ("heads.head", 768),
    "wide_resnet50_2": ("fc", 2048),
}
"""One network of each family of torchvision: its head, and how many features enter it."""

QUICK = ("mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")
"""Families that are small as they are; the others are tried as small twins here, in full size by the slow tests."""

SMALL = {
    "densenet": lambda: registry.DenseNet(6, (2, 2), 8, num_classes=7),
    "swin": lambda: SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=7),
    "swin_v2": lambda: SwinTransformer(
        [4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=7, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "vit": lambda: registry.VisionTransformer(64, 16, 2, 2, 24, 48, num_classes=7),
    "convnext": lambda: registry.ConvNeXt([CNBlockConfig(8, 24, 1), CNBlockConfig(24, None, 1)], num_classes=7),
    "maxvit": lambda: registry.MaxVit((64, 64), 8, 2, [12, 24], [1, 1], 4, 0.0, num_classes=7),
}
"""Small twins: 64 pixels, 7 classes."""

LAYERS = {
    "resnet18": ("layer3", 256),
    "densenet": ("features.denseblock1", 20),
    "vit": ("encoder", 24),
    "swin": ("features.1", 24),
    "swin_v2": ("features.3", 48),
    "maxvit": ("blocks.0", 12),
    "convnext": ("features.3", 24),
}
"""Feature maps NCHW, token sequences NLC and, inside Swin, NHWC: the layer, and its number of channels."""


def build(name):
    torch.manual_seed(0)
    if name in SMALL:
        return SMALL[name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zoo.builder(name)(**zoo.untrained_arguments(name, {})).eval()


def images(num, side=64):
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_one_network_of_every_family_is_tried():
    def family(name):
        return name.rstrip("0123456789_").split("_")[0].rstrip("0123456789")

    assert {family(name) for name in registry.list_models(module=registry)} == {family(name) for name in HEADS}


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in set(HEADS) - set(QUICK))]
)
@torch.inference_mode()
def test_the_head_of_every_family_is_found_and_its_input_makes_the_logits(name):
    network, (head, length) = build(name), HEADS[name]
    inputs = images(1, 64 if name in QUICK else 299 if name == "inception_v3" else 224)
    layer = default_layer(network, inputs)
    assert layer == f"{head}:input"
    assert num_features(network, head) == length
    features = Features(network, layer)(inputs)
    assert (features.dtype, features.shape) == (torch.float32, (1, length))
    if name != "squeezenet1_1":
        torch.testing.assert_close(network.get_submodule(head)(features), network(inputs))


@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_any_module_gives_one_value_per_channel_whatever_the_order_of_its_axes(name):
    network, (layer, channels), inputs = build(name), LAYERS[name], images(2)
    seen = []
    with network.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output)):
        mean = Features(network, layer)(inputs)
        peak = Features(network, layer, "max")(inputs)
        flat = Features(network, layer, "flatten")(inputs)
    assert list(seen[0].shape).count(channels) == 1
    expected = seen[0].movedim(seen[0].shape.index(channels), 1).flatten(2)
    torch.testing.assert_close(mean, expected.mean(2))
    torch.testing.assert_close(peak, expected.amax(2))
    torch.testing.assert_close(flat, seen[0].flatten(1))
    assert mean.shape == peak.shape == (2, channels)


@pytest.mark.parametrize("name", [*SMALL, *QUICK])
@torch.inference_mode()
def test_a_replaced_head_is_a_linear_layer_on_the_features(name):
    network, inputs = build(name), images(2)
    layer = find_head(network, inputs)
    features = Features(network, f"{layer}:input")(inputs)
    weight, bias = torch.randn(5, features.shape[1]), torch.randn(5)
    replace_head(network, layer, 5)
    fill_head(network, layer, weight, bias)
    torch.testing.assert_close(network(inputs), features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert find_head(network, inputs) == layer


def test_what_a_later_layer_overwrites_was_taken_before():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2)
    )
    network.eval()
    inputs = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = network[1](network[0](inputs))
        for pooling, value in (("avg", expected.mean((2, 3))), ("flatten", expected.flatten(1))):
            assert (value < 0).any()
            torch.testing.assert_close(Features(network, "1", pooling)(inputs), value)


def test_features_of_lenet_are_its_own_and_its_answers_stay():
    network = LeNet5().eval()
    inputs = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        before = network(inputs)
        torch.testing.assert_close(
            Features(network, default_layer(network, inputs[:1]))(inputs), network.features(inputs)
        )
        assert torch.equal(network(inputs), before)
        assert not network.output._forward_pre_hooks


class Odd(nn.Module):
    """A network with a shared module, a module that never runs, and outputs that are no tensor per image."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.fc1, self.fc2, self.side = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 9)
        self.unused = nn.Linear(2, 2)
        self.words, self.crowd = Words(), Crowd()
        self.volume = nn.Unflatten(1, (1, 1, 2, 2))

    def forward(self, x_NCHW):
        hidden = self.act(self.fc1(self.act(x_NCHW.flatten(1)) - 1))
        self.words(hidden)
        self.crowd(hidden)
        self.volume(hidden)
        logits = self.fc2(input=hidden)
        self.side(hidden)
        return logits


class Words(nn.Module):
    def forward(self, _):
        return {"a": 1}


class Crowd(nn.Module):
    def forward(self, x_ND):
        return x_ND.repeat(3, 1)


@torch.inference_mode()
def test_the_layer_that_the_output_comes_from_is_the_head_though_another_ran_later():
    network, inputs = Odd().eval(), torch.randn(2, 1, 2, 2)
    assert default_layer(network, inputs) == "fc2:input"
    hidden = Features(network, "fc2:input")(inputs)
    torch.testing.assert_close(hidden, Features(network, "act")(inputs))
    torch.testing.assert_close(network.fc2(hidden), network(inputs))


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("fc3", "Close names: fc"),
        ("zzz", "Close names: act, fc1"),
        ("fc3:input", "NAME:input means what enters"),
        ("unused", "it never ran"),
        ("words", "a tensor from 'words', got dict"),
        ("crowd", r"shape \(6, 4\) for 2 image"),
        ("volume", "at most four axes"),
    ],
)
@torch.inference_mode()
def test_a_layer_without_features_is_refused_with_what_would_do(layer, says):
    with pytest.raises(UnknownLayer, match=says):
        Features(Odd().eval(), layer)(torch.randn(2, 1, 2, 2))


def test_a_network_without_weights_has_no_head():
    with pytest.raises(ModelLoadFailed, match=r"\[embedding\] layer"):
        default_layer(nn.Flatten(), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("shape", "size_hw", "length"),
    [
        ((2, 5, 7, 7), (28, 28), 5),
        ((2, 7, 7, 5), (28, 28), 5),
        ((2, 6, 6, 6), (24, 24), 6),
        ((2, 64, 30, 50), (240, 400), 64),
        ((2, 30, 50, 64), (240, 400), 64),
        ((2, 9, 1, 1), (32, 32), 9),
        ((2, 1, 1, 9), (32, 32), 9),
        ((2, 50, 8), (32, 32), 8),
        ((2, 8), (32, 32), 8),
    ],
    ids=["NCHW", "NHWC", "in_doubt_NCHW", "wide_NCHW", "wide_NHWC", "one_pixel", "one_pixel_last", "NLC", "vector"],
)
def test_positions_are_told_by_the_inputs_proportions(shape, size_hw, length):
    features = torch.randn(shape)
    assert pool(features, "avg", size_hw).shape == (2, length)
    if shape == (2, 6, 6, 6):
        torch.testing.assert_close(pool(features, "max", size_hw), features.amax((2, 3)))
