import pytest
import torch

from models.networks import find
from models.networks.unet import DoubleConv, UNet


def test_the_papers_network_has_its_sizes_and_parameters():
    with torch.device("meta"):
        network = UNet(num_classes=2, in_channels=1, width=64, depth=4, padding="valid", normalise=False)
        logits = network(torch.zeros(1, 1, 572, 572))
    assert logits.shape == (1, 2, 388, 388)
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_030_658
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    # The paper counts 23 convolutional layers, the four that enlarge among them.
    assert len(convolutions) + len(network.enlarge) == 23


@pytest.mark.parametrize(("depth", "width", "classes", "channels"), [(1, 4, 3, 1), (2, 3, 5, 3), (4, 2, 2, 2)])
def test_depth_width_channels_and_classes_are_arguments(depth, width, classes, channels):
    network = UNet(num_classes=classes, in_channels=channels, width=width, depth=depth).eval()
    side = 3 * 2**depth
    assert network(torch.zeros(2, channels, side, 2 * side)).shape == (2, classes, side, 2 * side)
    assert [block[0].out_channels for block in network.down] == [width * 2**level for level in range(depth)]
    assert network.bottom[0].out_channels == width * 2**depth


def test_a_copy_of_each_level_reaches_the_expanding_path():
    torch.manual_seed(0)
    network = UNet(num_classes=2, width=4, depth=2).eval()
    seen = []
    network.up[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 1, 16, 16)
    network(x)
    copied = seen[0][:, :4]
    assert torch.equal(copied, network.down[0](x))


def test_valid_convolutions_agree_with_padded_ones_far_from_the_edges():
    torch.manual_seed(0)
    padded = UNet(num_classes=2, width=4, depth=2, padding="same").eval()
    valid = UNet(num_classes=2, width=4, depth=2, padding="valid").eval()
    valid.load_state_dict(padded.state_dict())
    x = torch.rand(1, 1, 92, 92)
    inner = valid(x)
    lost = (92 - inner.shape[-1]) // 2
    assert lost == 20
    whole = padded(x)[..., lost:-lost, lost:-lost]
    torch.testing.assert_close(inner[..., 24:-24, 24:-24], whole[..., 24:-24, 24:-24], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padding", "size"), [("same", (32, 40)), ("valid", (572, 570)), ("same", (8, 32))])
def test_sides_that_cannot_be_halved_are_refused(padding, size):
    network = UNet(num_classes=2, width=1, depth=4, padding=padding)
    with pytest.raises(ValueError, match=r"expected (multiples of 16|even sides)"):
        network(torch.zeros(1, 1, *size))


def test_a_network_without_levels_is_refused():
    with pytest.raises(ValueError, match="depth 0"):
        UNet(num_classes=2, depth=0)


def test_normalisation_is_optional_and_the_table_knows_the_network():
    assert find("unet") is UNet
    block = DoubleConv(1, 4, padding="same", normalise=False)
    assert [type(layer).__name__ for layer in block] == ["Conv2d", "ReLU", "Conv2d", "ReLU"]
