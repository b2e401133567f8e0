"""The deconvnet against one written out layer by layer, and against its receptive field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import UnsupportedOption
from models.receptive_field import receptive_field
from models.visualization import Deconvnet, Peak, Survey, check_deconvnet, peaks

LAYERS = ["1", "2", "3", "4", "5", "6", "7"]


def by_hand(network: nn.Sequential, last: int, x_1CHW: Tensor, unit: Peak) -> Tensor:
    """Go back as the paper says: unpool with the switches, rectify, filter with the transposed filters."""
    switches: dict[int, tuple[Tensor, torch.Size]] = {}
    sizes: dict[int, torch.Size] = {}
    for index, module in enumerate(network[: last + 1]):
        sizes[index] = x_1CHW.shape
        if isinstance(module, nn.MaxPool2d):
            before = x_1CHW.shape
            x_1CHW, places = functional.max_pool2d(x_1CHW, module.kernel_size, return_indices=True)
            switches[index] = (places, before)
        else:
            x_1CHW = module(x_1CHW.clone())
    signal = torch.zeros_like(x_1CHW)
    row, column = unit.position_yx or (0, 0)
    signal[0, unit.channel, row, column] = x_1CHW[0, unit.channel, row, column].clamp(min=0)
    for index in range(last, -1, -1):
        module = network[index]
        if isinstance(module, nn.MaxPool2d):
            places, before = switches[index]
            signal = nn.MaxUnpool2d(module.kernel_size)(signal, places, output_size=before)
        elif isinstance(module, nn.ReLU):
            signal = signal.relu()
        elif isinstance(module, nn.Conv2d):
            back = nn.ConvTranspose2d(
                module.out_channels, module.in_channels, module.kernel_size, module.stride, module.padding, bias=False
            )
            back.weight.data.copy_(module.weight)
            signal = back(signal, output_size=sizes[index][-2:])
    return signal.detach()[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_it_equals_unpooling_rectifying_and_transposed_filters(survey: Survey, image: Tensor, layer: str) -> None:
    made = Deconvnet(survey, [layer], image)
    (units,) = peaks(made.maps, most=4)
    assert isinstance(survey.network, nn.Sequential)
    for unit in units:
        expected = by_hand(survey.network, int(layer), image, unit)
        assert expected.abs().max() > 0
        torch.testing.assert_close(made.project(unit), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_reconstruction_is_zero_outside_the_receptive_field(survey: Survey, image: Tensor, layer: str) -> None:
    field = receptive_field(survey.network, image, layer)
    made = Deconvnet(survey, [layer], image)
    for unit in peaks(made.maps, most=5)[0]:
        assert unit.position_yx is not None
        left, top, right, bottom = map(int, field.box_xyxy(*unit.position_yx))
        pattern = made.project(unit)
        assert pattern[:, top:bottom, left:right].abs().max() > 0
        pattern[:, top:bottom, left:right] = 0
        assert pattern.abs().max() == 0


def test_it_is_not_the_plain_gradient_and_leaves_the_network_as_it_was(survey: Survey, image: Tensor) -> None:
    before = survey.network(image.clone())
    made = Deconvnet(survey, ["9"], image)
    unit = peaks(made.maps, most=1)[0][0]
    x = image.clone().requires_grad_()
    (plain,) = torch.autograd.grad(survey.network(x.clone())[0, unit.channel] * unit.activation, x)
    assert not torch.allclose(made.project(unit), plain[0], rtol=1e-2)
    assert torch.equal(survey.network(image.clone()), before)


def test_a_unit_at_rest_gives_nothing(survey: Survey, image: Tensor) -> None:
    made = Deconvnet(survey, ["9"], image)
    weakest = min(peaks(made.maps, most=5)[0], key=lambda unit: unit.activation)
    assert weakest.activation < 0
    assert made.project(weakest).abs().max() == 0


def test_a_network_without_relu_is_told_what_works_instead() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()
    probe = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UnsupportedOption, match="activation_maximization"):
        check_deconvnet(Survey(network, probe), probe)
