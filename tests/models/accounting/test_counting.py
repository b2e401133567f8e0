"""Counts against arithmetic by hand, the lecture's table of VGG-16, and torchvision's published figures."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import zoo
from models.accounting.counting import count, input_shape, profile
from models.catalog import Catalog
from models.errors import UnsupportedOption

# Stanford's CS231n, lecture on architectures: weights without biases, and activations in thousands.
VGG16 = [
    ("features.0", 1_728, 3_211), ("features.2", 36_864, 3_211), ("features.4", 0, 803),
    ("features.5", 73_728, 1_606), ("features.7", 147_456, 1_606), ("features.9", 0, 401),
    ("features.10", 294_912, 803), ("features.12", 589_824, 803), ("features.14", 589_824, 803),
    ("features.16", 0, 201),
    ("features.17", 1_179_648, 401), ("features.19", 2_359_296, 401), ("features.21", 2_359_296, 401),
    ("features.23", 0, 100),
    ("features.24", 2_359_296, 100), ("features.26", 2_359_296, 100), ("features.28", 2_359_296, 100),
    ("features.30", 0, 25),
    ("classifier.0", 102_760_448, 4), ("classifier.3", 16_777_216, 4), ("classifier.6", 4_096_000, 1),
]  # fmt: skip


def test_vgg16_gives_the_lectures_table():
    found = profile(Catalog().find("vgg16"), (3, 224, 224))
    rows = [layer for layer in found.layers if layer.kind in ("Conv2d", "MaxPool2d", "Linear")]
    assert [(row.name, row.weights, round(row.activations / 1000)) for row in rows] == VGG16
    assert found.parameters == 138_357_544
    assert found.parameters - found.biases == found.weights == 138_344_128
    assert found.multiply_adds / 1e9 == pytest.approx(15.47, abs=0.005)
    first = rows[0]
    assert (first.windows.kernel, first.windows.stride, first.windows.padding) == ((3, 3), (1, 1), (1, 1))
    assert (first.output_shape, first.biases) == ((1, 64, 224, 224), 64)
    assert first.multiply_adds == 224 * 224 * 64 * 27
    assert [row.receptive_field_hw[0] for row in rows[:3]] == [3, 5, 6]
    assert rows[-1].sees_all
    assert sum(row.activations for row in found.layers if row.kind == "ReLU") == 0


class Functional(nn.Module):
    """Convolves by itself, with a parameter of its own, and calls one module twice."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.twice = nn.Conv2d(4, 4, 1)

    def forward(self, x_NCHW):
        first = functional.max_pool2d(functional.relu(functional.conv2d(x_NCHW, self.kernel, padding=1)), 2)
        return self.twice(functional.relu(self.twice(first))) + first


class Flat(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x_NCHW):
        return self.layer(x_NCHW.flatten(2))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x_NCHW):
        tokens = x_NCHW.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


# Name, network, input, multiply-adds by hand, parameters by hand.
BY_HAND = [
    ("grouped", nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 6, 5), 6 * 5 * 12 * 2 * 9, 12 * 2 * 9 + 12),
    ("depthwise", nn.Conv2d(8, 8, (3, 5), stride=2, groups=8), (8, 9, 9), 4 * 3 * 8 * 15, 8 * 15 + 8),
    ("dilated", nn.Conv2d(3, 4, 3, dilation=2, bias=False), (3, 9, 8), 5 * 4 * 4 * 27, 4 * 27),
    ("transposed", nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (6, 5, 4), 5 * 4 * 6 * 2 * 9, 6 * 2 * 9 + 4),
    ("1-D", Flat(nn.Conv1d(3, 5, 4, stride=3)), (3, 4, 4), 5 * 5 * 12, 5 * 12 + 5),
    ("linear", Flat(nn.Linear(16, 7)), (3, 4, 4), 3 * 16 * 7, 16 * 7 + 7),
    # Queries, keys, values and the output are projections; each of 12 tokens looks at 12.
    ("attention", Attention(), (8, 3, 4), 12 * 8 * 8 * 4 + 2 * 12 * 12 * 8, 4 * (8 * 8 + 8)),
    ("functional", Functional(), (3, 6, 6), 36 * 4 * 27 + 2 * 9 * 16, 4 * 27 + 20),
]


@pytest.mark.parametrize(("network", "shape", "multiply_adds", "parameters"), [one[1:] for one in BY_HAND],
                         ids=[one[0] for one in BY_HAND])  # fmt: skip
def test_counts_are_those_done_by_hand(network, shape, multiply_adds, parameters):
    ledger = count(network.eval(), torch.rand(1, *shape))
    assert sum(layer.multiply_adds for layer in ledger.layers) == multiply_adds
    assert sum(layer.parameters for layer in ledger.layers) == parameters
    assert ledger.unused_parameters == 0


def test_functional_work_belongs_to_its_module_and_a_module_run_twice_is_told_so():
    layers = count(Functional().eval(), torch.rand(1, 3, 6, 6)).layers
    assert [(layer.name, layer.kind, layer.call) for layer in layers] == [
        ("", "conv2d", 0),
        ("", "max_pool2d", 0),
        ("twice", "Conv2d", 0),
        ("", "relu", 0),
        ("twice", "Conv2d", 1),
        ("", "add", 0),
    ]
    assert (layers[0].weights, layers[0].biases, layers[0].windows.padding) == (108, 0, (1, 1))
    assert [layer.parameters for layer in layers if layer.name == "twice"] == [20, 0]
    assert [layer.receptive_field_hw for layer in layers[:2]] == [(3, 3), (4, 4)]
    assert layers[0].activations == 2 * 4 * 36


def test_the_memory_that_is_alive_at_once_is_less_than_all_of_it():
    narrow = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(1, 8, 1)).eval()
    ledger = count(narrow, torch.rand(1, 1, 10, 10))
    assert sum(layer.activations for layer in ledger.layers) == 1700
    # Of two layers that follow one another, what came in and what goes out.
    assert ledger.peak == 900


# The quick ones of every family; `python -m tests.bench.costs` prints all.
SAMPLE = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d",
    "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "vgg11_bn", "vit_b_16", "vit_b_16.imagenet1k_swag_e2e_v1",
    "wide_resnet50_2",
)  # fmt: skip


def assert_as_published(name):
    found = profile(Catalog().find(name), follow=False)
    assert found.parameters == found.published["num_params"]
    # torchvision rounds to thousandths, which is more than 1 % of shufflenet_v2_x0_5 (0.0405, published as 0.040).
    assert found.multiply_adds / 1e9 == pytest.approx(found.published["gflops"], rel=0.01, abs=0.0005)


@pytest.mark.parametrize("name", SAMPLE)
def test_torchvisions_networks_cost_what_it_publishes(name):
    assert_as_published(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.names("classification") if name not in SAMPLE])
def test_all_other_classification_networks_cost_what_torchvision_publishes(name):
    assert_as_published(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet-digits", None), ("stn-digits", None), ("unet-cells", (1, 64, 96)), ("style-textures", (3, 64, 64)),
        ("fasterrcnn-digits", (3, 96, 128)), ("yolo-digits", (3, 96, 96)), ("lraspp_mobilenet_v3_large", None),
    ],
)  # fmt: skip
def test_networks_for_every_task_are_profiled(name, shape):
    entry = Catalog().find(name)
    found = profile(entry, shape)
    assert found.input_shape == (shape or input_shape(entry))
    assert found.parameters == entry.card.cost.num_params
    assert found.multiply_adds > 0
    assert all(layer.output_shape for layer in found.layers if layer.multiply_adds)


def test_a_users_own_network_is_profiled_without_weights(write_model):
    code = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\n"
    folder = write_model("own", network="network:build", code={"network.py": code}, more="")
    found = profile(Catalog(folder).find("own"), (3, 2, 2))
    assert (found.multiply_adds, found.weights, found.biases) == (24, 24, 2)


def test_an_input_that_the_network_does_not_take_is_told():
    with pytest.raises(UnsupportedOption, match=r"accepts, got 1x10x10 .*ordinary input is 1x32x32"):
        profile(Catalog().find("lenet-digits"), (1, 10, 10))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names("detection"))
def test_every_detector_of_torchvision_is_profiled_untrained(name):
    found = profile(Catalog().find(name), (3, 320, 320))
    assert found.parameters == found.published["num_params"]
    assert found.notes
