"""The rules for ReLUs: captum's results on modules, and the same on networks that call functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models as registry

from models.errors import UnsupportedOption
from models.networks.lenet import LeNet5
from models.relu_rules import Rule, check_relu, has_relu, relu_rule

CAPTUM = {"guided": GuidedBackprop, "deconvolution": Deconvolution}
RULES = get_args(Rule)


class Layers(nn.Module):
    """Two convolutions and a linear layer; the activation is what a test makes it."""

    def __init__(self, activation: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
        self.activation = activation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.activation(5 * self.first(x_NCHW))
        x_NCHW = self.activation(5 * self.second(x_NCHW))
        logits_NK: Tensor = self.head(x_NCHW.mean(dim=(2, 3)))
        return logits_NK


def relu_as_a_statement(x: Tensor) -> Tensor:
    x.relu_()
    return x


class Clamp(nn.ReLU):
    """A ReLU that captum knows by its class, and that calls no other."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input.clamp(min=0)


SPELLINGS: dict[str, Callable[[Tensor], Any]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": functional.relu,
    "F.relu in place": lambda x: functional.relu(x, inplace=True),
    "F.relu in place by position": lambda x: functional.relu(x, True),
    "F.relu_": functional.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_ as a statement": relu_as_a_statement,
}


def gradient(network: nn.Module, x_NCHW: Tensor, target: int, rule: Rule) -> Tensor:
    x_NCHW = x_NCHW.clone().requires_grad_()
    with relu_rule(rule):
        logits_NK = network(x_NCHW)
    return torch.autograd.grad(logits_NK[:, target].sum(), x_NCHW)[0]


@pytest.fixture(scope="module")
def x_NCHW() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("rule", RULES)
def test_every_spelling_of_relu_gives_what_captum_gives_for_modules(x_NCHW: Tensor, spelling: str, rule: Rule) -> None:
    expected = CAPTUM[rule](Layers(nn.ReLU())).attribute(x_NCHW.clone().requires_grad_(), target=1)
    network = Layers(SPELLINGS[spelling])
    assert torch.allclose(gradient(network, x_NCHW, 1, rule), expected, atol=1e-6)
    assert expected.abs().max() > 0.01
    x = x_NCHW.clone().requires_grad_()
    plain = torch.autograd.grad(network(x)[:, 1].sum(), x)[0]
    assert not torch.allclose(plain, expected, atol=1e-3), "the rule ends with its block and changes something"


@pytest.mark.parametrize(
    "activation", [nn.ReLU6(), nn.ReLU6(inplace=True), functional.relu6, lambda x: functional.hardtanh(x, 0, 6)]
)
@pytest.mark.parametrize("rule", RULES)
def test_relu6_is_one_too(x_NCHW: Tensor, activation: Callable[[Tensor], Tensor], rule: Rule) -> None:
    network = Layers(activation)
    x = (20 * x_NCHW).requires_grad_()
    with relu_rule(rule):
        hidden = network.activation(x.clone())
    assert torch.equal(hidden, x.detach().clamp(0, 6))
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad(hidden, x, upstream)
    passes = (x > 0) & (x < 6) if rule == "guided" else torch.ones_like(x, dtype=torch.bool)
    assert torch.equal(found, upstream.clamp(min=0) * passes)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["densenet121", "googlenet"])
def test_networks_that_call_functions_are_like_their_twins_of_modules(name: str, rule: Rule) -> None:
    torch.manual_seed(3)
    arguments = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network = registry.get_model(name, weights=None, num_classes=5, **arguments).eval().requires_grad_(False)
    x_NCHW = torch.randn(1, 3, 64, 64)
    found = gradient(network, x_NCHW, 2, rule)

    def as_module(x: Tensor, inplace: bool = False) -> Any:
        module = Clamp()
        twins.append(CAPTUM[rule](module))
        twins[-1]._register_hooks(module)
        return module(x)

    twins: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "relu", as_module)
        x = x_NCHW.clone().requires_grad_()
        logit = network(x)[:, 2].sum()
    expected = torch.autograd.grad(logit, x)[0]
    assert twins
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_a_network_without_relu_is_told_from_one_with(x_NCHW: Tensor) -> None:
    assert has_relu(Layers(functional.relu), x_NCHW)
    assert has_relu(Layers(nn.ReLU6()), x_NCHW)
    assert not has_relu(Layers(torch.tanh), x_NCHW)
    assert not has_relu(Layers(functional.hardtanh), x_NCHW)


def test_a_method_that_needs_relu_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOption, match=r"guided_backprop.*Use saliency"):
        check_relu(LeNet5().eval(), torch.zeros(1, 1, 32, 32), "guided_backprop")
