import copy

import pytest
import torch
import torchvision
from torch import nn

from models.folding import fold_batch_norms


def trained(network):
    """Give batch norms statistics that are worth folding."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "folded"), [("resnet18", 20), ("mobilenet_v3_small", 34), ("densenet121", 59), ("alexnet", 0)]
)
def test_a_folded_network_gives_the_same_logits(name, folded):
    network = trained(torchvision.models.get_model(name, weights=None))
    copied = copy.deepcopy(network)
    assert len(fold_batch_norms(copied)) == 2 * folded
    x_NCHW = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(copied(x_NCHW), network(x_NCHW), atol=2e-4, rtol=1e-4)


def test_modules_keep_their_names_and_still_answer_to_hooks():
    network = trained(torchvision.models.resnet18(weights=None))
    names = [name for name, _ in network.named_modules()]
    fold_batch_norms(network)
    assert [name for name, _ in network.named_modules()] == names
    assert isinstance(network.layer1[0].bn1, nn.Identity)
    seen = []
    network.layer4.register_forward_hook(lambda *call: seen.append(call[2].shape))
    network(torch.zeros(1, 3, 64, 64))
    assert seen == [(1, 512, 2, 2)]


class Twice(nn.Module):
    """Uses one convolution in two places, and reads another's output twice."""

    def __init__(self):
        super().__init__()
        self.shared, self.read = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        first = self.norms[0](self.shared(x)) + self.norms[1](self.shared(x + 1))
        read = self.read(x)
        return first + self.norms[2](read) + read


class Asks(nn.Module):
    """Decides by its input, so that it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x):
        return self.body(x) if x.sum() > 0 else x


@pytest.mark.parametrize("network", [Twice(), Asks()], ids=["shared", "untraceable"])
def test_what_cannot_be_folded_is_left_alone(network):
    network = trained(network)
    before = network(torch.ones(1, 3, 4, 4))
    assert not fold_batch_norms(network)
    torch.testing.assert_close(network(torch.ones(1, 3, 4, 4)), before, atol=0, rtol=0)


def test_a_network_in_training_keeps_its_batch_norms():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    assert not fold_batch_norms(network)


def test_a_convolution_that_gets_its_weights_anew_before_each_pass_is_left_alone():
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
    network = trained(nn.Sequential(conv, nn.BatchNorm2d(4)))
    x_NCHW = torch.ones(1, 3, 8, 8)
    before = network(x_NCHW)
    assert not fold_batch_norms(network)
    torch.testing.assert_close(network(x_NCHW), before, atol=0, rtol=0)
