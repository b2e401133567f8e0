"""The cascade: last to first, the original untouched, a seed repeated."""

import copy

import pytest
import torch
from torch import nn

from models.attribution.cascade import Cascade, spread_depths
from models.classifier import Classifier
from models.errors import UnsupportedOption

X_1CHW = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Layers are made in another order than they run; one takes no part."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.unused = nn.Linear(3, 3)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(3, 8, 3)
        self.scale = nn.Parameter(torch.randn(8, 1, 1) + 5)

    def forward(self, x_NCHW):
        x_NCHW = torch.relu(self.norm(self.first(x_NCHW)) * self.scale)
        return self.head(x_NCHW.mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x_NCHW):
        tokens = x_NCHW.flatten(1, 2)
        return self.head(self.attend(tokens, tokens, tokens)[0].mean(dim=1))


class Scaled(nn.Module):
    """A parameter of its own, and nothing that could reset it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4000) * 3 + 5)

    def forward(self, x_NCHW):
        return x_NCHW.mean(dim=(1, 2, 3))[:, None] * self.scale.view(4, -1).sum(-1)


def trained(network):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.add_(2.0)
    return network.eval().requires_grad_(False)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return trained(Net())


def test_layers_are_listed_from_the_last_that_runs_to_the_first(net):
    assert Cascade(net, X_1CHW).layers == ("head", "norm", "first", "network")


def test_names_are_those_inside_a_classifier(net):
    assert Cascade(Classifier(net), X_1CHW).layers[:3] == ("head", "norm", "first")


def test_each_depth_changes_one_more_layer_and_no_other(net):
    cascade = Cascade(net, X_1CHW)
    for depth in range(5):
        cascade.randomize(depth)
        changed = {
            name.rpartition(".")[0] or "network"
            for name, tensor in cascade.classifier.state_dict().items()
            if tensor.is_floating_point() and not torch.equal(tensor, net.state_dict()[name])
        }
        assert changed == set(cascade.layers[:depth])


def test_the_original_is_untouched(net):
    before = copy.deepcopy(net.state_dict())
    Cascade(net, X_1CHW).randomize(4)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert not net._forward_pre_hooks
    assert not net.first._forward_pre_hooks


def test_the_copy_needs_no_gradients_of_its_weights(net):
    assert not any(parameter.requires_grad for parameter in Cascade(net, X_1CHW).classifier.parameters())


def test_a_seed_repeats_whatever_is_looked_at_in_between(net):
    at_once, stepwise, other = (Cascade(net, X_1CHW, seed=seed) for seed in (7, 7, 8))
    at_once.randomize(4)
    for depth in (1, 3, 4):
        stepwise.randomize(depth)
    other.randomize(4)
    assert torch.equal(at_once.classifier.scale, stepwise.classifier.scale)
    assert torch.equal(at_once.classifier.first.weight, stepwise.classifier.first.weight)
    assert not torch.equal(at_once.classifier.first.weight, other.classifier.first.weight)


def test_others_draw_the_same_numbers_as_without_it(net):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Cascade(net, X_1CHW).randomize(4)
    assert torch.equal(torch.rand(4), expected)


def test_a_batch_normalisation_forgets_its_statistics_too(net):
    cascade = Cascade(net, X_1CHW)
    cascade.randomize(2)
    norm = cascade.classifier.norm
    for tensor, value in ((norm.running_mean, 0), (norm.running_var, 1), (norm.weight, 1), (norm.bias, 0)):
        assert torch.equal(tensor, torch.full_like(tensor, value))


def test_a_parameter_without_a_reset_keeps_mean_and_spread():
    torch.manual_seed(0)
    net = Scaled()
    cascade = Cascade(net.eval(), X_1CHW)
    cascade.randomize(1)
    scale = cascade.classifier.scale.detach()
    assert not torch.equal(scale, net.scale)
    assert float(scale.mean()) == pytest.approx(5, abs=0.3)
    assert float(scale.std()) == pytest.approx(3, abs=0.2)


def test_weights_that_a_module_uses_without_running_their_owner_go_with_it():
    torch.manual_seed(0)
    net = trained(Attention())
    cascade = Cascade(net, X_1CHW)
    assert cascade.layers == ("head", "attend")
    cascade.randomize(2)
    for name, parameter in cascade.classifier.named_parameters():
        assert not torch.equal(parameter, net.get_parameter(name)), name


def test_a_network_without_parameters_is_refused():
    with pytest.raises(UnsupportedOption, match="no parameters"):
        Cascade(nn.Flatten(), X_1CHW)


@pytest.mark.parametrize(
    ("num_layers", "max_depths", "depths"),
    [(9, 12, list(range(1, 10))), (9, 3, [1, 5, 9]), (41, 2, [1, 41]), (9, 1, [9]), (1, 12, [1])],
)
def test_depths_are_spread_evenly_with_the_first_and_the_last(num_layers, max_depths, depths):
    assert spread_depths(num_layers, max_depths) == depths
