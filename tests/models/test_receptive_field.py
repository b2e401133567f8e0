import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models as registry

from models.errors import UnknownLayer
from models.receptive_field import receptive_field, receptive_fields


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=4, dilation=4)

    def forward(self, x_NCHW):
        return functional.relu(self.near(x_NCHW) + self.far(x_NCHW)) + x_NCHW


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.five = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, (5, 1), padding=(2, 0))

    def forward(self, x_NCHW):
        return torch.cat([self.one(x_NCHW), self.five(x_NCHW), functional.avg_pool2d(x_NCHW, 3, 1, 1)], dim=1)


class Lopsided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x_NCHW):
        return self.conv(functional.pad(x_NCHW, (0, 1, 2, 0)))


class Hourglass(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.ConvTranspose2d(3, 3, 2, stride=2)

    def forward(self, x_NCHW):
        return x_NCHW[..., :32, :32] + self.up(self.down(x_NCHW))[..., :32, :32]


class Counting(nn.Module):
    """Looks at values, and has outputs of no elements, as detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x_NCHW):
        features = self.conv(x_NCHW)
        assert features[features < -1e9].numel() == 0
        return features * float(features.max().item() > -1)


class Shuffled(nn.Module):
    """Windows, rolls, tokens and writing into a part, as transformers in windows and detectors do."""

    def forward(self, x_NCHW):
        rolled = x_NCHW.roll((2, 3), (2, 3))
        windows = rolled.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
        mixed = windows.flatten(0, 2).softmax(dim=1) @ torch.ones(3, 3, dtype=x_NCHW.dtype)
        back = mixed.view(-1, x_NCHW.shape[2] // 4, x_NCHW.shape[3] // 4, 4, 4, 3).permute(0, 5, 1, 3, 2, 4)
        canvas = torch.zeros_like(x_NCHW)
        canvas[:, :, 4:] = back.reshape(x_NCHW.shape)[:, :, :-4]
        return canvas


def chain(*layers):
    return nn.Sequential(*layers)


NETWORKS = {
    "convolutions": chain(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 5, stride=2, padding=2)),
    "dilation": chain(nn.Conv2d(3, 3, 3, dilation=3), nn.Conv2d(3, 3, (1, 3), dilation=(1, 2), padding=(0, 2))),
    "groups": chain(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.Conv2d(6, 6, 3, groups=2), nn.ChannelShuffle(2)),
    "pooling": chain(nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 3, 3), nn.AvgPool2d(2, ceil_mode=True)),
    "same padding": chain(nn.Conv2d(3, 3, (3, 5), padding="same", dilation=2), nn.Conv2d(3, 3, 3, stride=3)),
    "transposed": chain(nn.Conv2d(3, 3, 3, 2, 1), nn.ConvTranspose2d(3, 3, 4, 3, 1, 1), nn.Conv2d(3, 3, 3)),
    "transposed, dilated": chain(nn.ConvTranspose2d(3, 3, 3, 2, 1, dilation=2), nn.AvgPool2d(2)),
    "bilinear": chain(nn.AvgPool2d(4), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 3, 3)),
    "nearest": chain(nn.AvgPool2d(4), nn.Upsample(size=(13, 9)), nn.Conv2d(3, 3, 3)),
    "adaptive": chain(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(5)),
    "mirrored": chain(nn.ReflectionPad2d(2), nn.Conv2d(3, 3, 3)),
    "pixel shuffle": chain(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)),
    "residual": chain(Residual(), nn.Conv2d(3, 3, 3, 2, 1), Residual()),
    "inception": chain(Inception(), nn.Conv2d(9, 3, 3, 2), Inception()),
    "asymmetric padding": chain(Lopsided(), Lopsided()),
    "hourglass": chain(Hourglass(), nn.Conv2d(3, 3, 3)),
    "windows": chain(nn.Conv2d(3, 3, 3, padding=1), Shuffled()),
    "normalised": chain(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3)),
    "looks at values": chain(nn.Conv2d(3, 3, 1), Counting()),
    "mean": chain(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1)),
}


def positive(network, seed=0):
    """Weights of one sign, so that nothing cancels, and so small that nothing overflows."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        parameter.data = (torch.rand(parameter.shape, dtype=torch.float64) + 0.5) / fan_in
    return network.double().eval().requires_grad_(False)


def support(network, x_NCHW, y, x):
    """The box around all pixels with a gradient of any channel of one output position."""
    inputs = x_NCHW.clone().requires_grad_()
    outputs = network(inputs)
    weights = torch.rand(outputs.shape[1], dtype=outputs.dtype) + 0.5
    (gradient,) = torch.autograd.grad((outputs[0, :, y, x] * weights).sum(), inputs)
    rows, columns = (gradient[0] != 0).any(0).nonzero().T
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_box_is_where_the_gradient_of_a_position_is_not_zero(name):
    network = positive(NETWORKS[name])
    x_NCHW = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    last = str(len(network) - 1)
    found = receptive_field(network, x_NCHW, last)
    rows, columns = found.positions_hw
    assert found.shape == tuple(network(x_NCHW).shape)
    places = {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3), (rows // 3, columns - 1), (0, columns // 2)}
    for y, x in places:
        assert found.box_xyxy(y, x) == support(network, x_NCHW, y, x), (y, x)


@pytest.mark.parametrize(
    "name",
    ["convolutions", "dilation", "pooling", "transposed, dilated", "residual", "inception", "asymmetric padding"],
)
def test_an_uncut_box_is_the_one_that_a_larger_picture_gives(name):
    network, margin = positive(NETWORKS[name]), 48
    small = receptive_field(network, torch.rand(1, 3, 36, 36, dtype=torch.float64), str(len(network) - 1))
    large = receptive_field(network, torch.rand(1, 3, 132, 132, dtype=torch.float64), small.layer)
    shift = round(margin / small.stride_hw[0])
    for y, x in ((0, 0), (1, 2), (small.positions_hw[0] - 1, small.positions_hw[1] - 1)):
        moved = tuple(edge + margin for edge in small.box_xyxy(y, x, cut=False))
        assert moved == large.box_xyxy(y + shift, x + shift)
    left, top, right, bottom = small.box_xyxy(0, 0, cut=False)
    assert small.start_yx == (top, left)
    assert small.size_hw == (bottom - top, right - left)
    assert small.centre_yx == ((top + bottom) / 2, (left + right) / 2)


def averaging(network):
    """The same network where gradients reach every place: means for maxima, and nothing that saturates."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, mean)
            elif isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    return network


@pytest.mark.parametrize(
    ("name", "layer", "size_px"),
    [
        ("resnet18", "layer3", 96),
        ("googlenet", "inception4a", 96),
        ("densenet121", "features.denseblock2", 64),
        ("mobilenet_v2", "features.13", 96),
        ("efficientnet_b0", "features.1", 64),
        ("convnext_tiny", "features.1.0", 96),
        ("swin_t", "features.1", 64),
    ],
)
def test_torchvisions_networks_see_what_their_gradients_say(name, layer, size_px):
    slow = {"init_weights": False} if name == "googlenet" else {}
    network = positive(averaging(registry.get_model(name, weights=None, **slow)))
    x_NCHW = torch.rand(1, 3, size_px, size_px, dtype=torch.float64)
    found = receptive_field(network, x_NCHW, layer)
    taken = {}
    network.get_submodule(layer).register_forward_hook(lambda _, __, output: taken.update(output=output))

    def until_there(inputs):
        network(inputs)
        output = taken["output"]
        return output if output.shape[2:] == found.positions_hw else output.permute(0, 3, 1, 2)

    rows, columns = found.positions_hw
    for y, x in ((0, 0), (rows // 2, columns // 2), (rows - 1, 1)):
        assert found.box_xyxy(y, x) == support(until_there, x_NCHW, y, x), (y, x)


def test_the_published_numbers_of_vgg16_come_out():
    network = registry.vgg16(weights=None).eval()
    found = receptive_fields(network, torch.zeros(1, 3, 224, 224))
    assert [found[f"features.{layer}"].size_hw for layer in (0, 4, 9, 16, 23, 28, 30)] == [
        (size, size) for size in (3, 6, 16, 44, 100, 196, 212)
    ]
    assert found["features.30"].stride_hw == (32, 32)
    assert found["features.30"].start_yx == (-90, -90)
    assert found["classifier.6"].sees_all
    assert found["classifier.6"].size_hw == (224, 224)
    assert not found["features.28"].sees_all


@pytest.mark.parametrize(
    ("name", "layer", "size_px"),
    [
        ("regnet_y_400mf", "trunk_output.block4", 224),
        ("mobilenet_v3_large", "features.15", 64),
        ("efficientnet_b0", "features.7", 64),
        ("maxvit_t", "blocks.3", 224),
        ("swin_t", "features.7", 224),
    ],
)
def test_after_an_operator_that_mixes_all_positions_the_field_is_the_input_and_does_not_move(name, layer, size_px):
    found = receptive_field(registry.get_model(name, weights=None).eval(), torch.zeros(1, 3, size_px, size_px), layer)
    assert found.sees_all
    assert (found.size_hw, found.stride_hw, found.start_yx) == ((size_px, size_px), (0, 0), (0, 0))
    assert found.box_xyxy(0, 0, cut=False) == (0, 0, size_px, size_px)


def test_windows_that_reach_beyond_the_input_keep_their_size_and_stride():
    found = receptive_field(registry.resnet50(weights=None).eval(), torch.zeros(1, 3, 64, 64), "layer4")
    assert found.sees_all
    assert (found.size_hw, found.stride_hw) == ((427, 427), (32, 32))


def test_tokens_are_counted_along_the_first_axis():
    network = registry.vit_b_16(weights=None).eval()
    found = receptive_fields(network, torch.zeros(1, 3, 224, 224))
    tokens = found["encoder.dropout"]
    assert tokens.positions_hw == (197, 1)
    assert tokens.box_xyxy(0, 0) == (0, 0, 0, 0)
    assert tokens.box_xyxy(1 + 14 + 2, 0) == (32, 16, 48, 32)
    assert found["encoder.layers.encoder_layer_0"].sees_all


def test_a_module_or_position_that_is_not_there_is_told():
    network = chain(nn.Conv2d(3, 3, 3), nn.Identity())
    with pytest.raises(UnknownLayer, match="Close names: 0, 1"):
        receptive_field(network, torch.zeros(1, 3, 8, 8), "2")
    found = receptive_field(network, torch.zeros(1, 3, 8, 8), "1")
    assert found.box_xyxy(-1, -1) == (5, 5, 8, 8)
    with pytest.raises(UnknownLayer, match="Expected a row of '1' from 0 to 5, got 6"):
        found.box_xyxy(6, 0)
