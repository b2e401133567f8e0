"""Methods that take gradients: captum's numbers, completeness, errors, and refusals."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision import models as registry

from models.attribution import METHODS, Question, Settings, attributor, explain
from models.attribution.cam import default_layer
from models.attribution.path import nodes
from models.attribution.sampled import GradientShap, SmoothGrad
from models.catalog import Catalog
from models.classifier import Classifier
from models.errors import UnknownLayer, UnsupportedOption
from models.loading import load
from models.networks.lenet import LeNet5
from models.networks.vgg_small import VggSmall
from models.recipes.digits import test_split as held_out_digits

from .questions import Small, ask


def summed(values_1CHW: Any) -> np.ndarray[Any, Any]:
    return values_1CHW.detach()[0].sum(0).numpy()


def strongest(values_1CHW: Any) -> np.ndarray[Any, Any]:
    return values_1CHW.detach()[0].abs().amax(0).numpy()


CAPTUM = {
    "saliency": lambda net, q: strongest(captum.attr.Saliency(net).attribute(q.x_1CHW, q.target)),
    "input_x_gradient": lambda net, q: summed(captum.attr.InputXGradient(net).attribute(q.x_1CHW, q.target)),
    "guided_backprop": lambda net, q: summed(captum.attr.GuidedBackprop(net).attribute(q.x_1CHW, q.target)),
    "deconvolution": lambda net, q: summed(captum.attr.Deconvolution(net).attribute(q.x_1CHW, q.target)),
    "integrated_gradients": lambda net, q: summed(
        captum.attr.IntegratedGradients(net).attribute(q.x_1CHW, q.baseline_1CHW, q.target, n_steps=50)
    ),
    "grad_cam": lambda net, q: summed(
        LayerAttribution.interpolate(
            captum.attr.LayerGradCam(net, net.second).attribute(q.x_1CHW, q.target, relu_attributions=True),
            q.x_1CHW.shape[-2:],
            "bilinear",
        )
    ),
    "occlusion": lambda net, q: captum.attr.Occlusion(net).attribute(
        q.x_1CHW, (3, 5, 5), strides=(3, 2, 2), baselines=q.baseline_1CHW, target=q.target
    )[0, 0].numpy(),
}  # fmt: skip
EXPLICIT = {
    "integrated_gradients": {"steps": 50},
    "grad_cam": {"layer": "second"},
    "occlusion": {"window_px": 5, "stride_px": 2},
}


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0 did not already require")
@pytest.mark.parametrize("method", CAPTUM)
def test_a_method_gives_what_captum_gives_when_called_directly(method: Any) -> None:
    network = Small()
    question = ask(network, baseline_1CHW=torch.full((1, 3, 16, 12), 0.3))
    found = explain(question, Settings(method, **EXPLICIT.get(method, {}))).attribution_HW
    expected = CAPTUM[method](network, question)
    assert found.dtype == np.float32
    assert found.shape == (16, 12)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_smoothgrad_is_captums_noise_tunnel_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    question = ask(Small())
    settings = Settings("smoothgrad", samples=12, noise=0.2, seed=3)
    ours = SmoothGrad(question, settings)
    noisy = torch.cat([ours.noisy(index)[0] for index in range(12)])
    assert 0.7 < float((noisy - question.x_1CHW).std()) < 0.9, "a fifth of the range from -2 to 2"
    monkeypatch.setattr(captum.attr.NoiseTunnel, "_add_noise_to_input", lambda *_: noisy.clone())
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(question.classifier))
    expected = tunnel.attribute(question.x_1CHW, nt_samples=12, target=question.target, abs=False)
    found = explain(question, settings)
    np.testing.assert_allclose(found.attribution_HW, strongest(expected), atol=1e-6)


def test_gradient_shap_is_captums_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(5))
    question = ask(Small(), baselines_BCHW=baselines)
    ours = GradientShap(question, Settings("gradient_shap", samples=9, noise=0.1, seed=4))
    alphas, starts, ends = [], [], []
    for index in range(9):
        end, random = ours.noisy(index)
        starts.append(baselines[int(random.integers(3))][None])
        alphas.append(random.random())
        ends.append(end)
    monkeypatch.setattr(captum.attr.NoiseTunnel, "_add_noise_to_input", lambda *_: torch.cat(ends))
    monkeypatch.setattr(
        captum.attr.NoiseTunnel,
        "_expand_partial",
        lambda _, __, kwargs, ___, ____: kwargs.update(baselines=(torch.cat(starts),)),
    )
    # captum's coefficient is the share of the input, as ours.
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.array(alphas))
    method = captum.attr.GradientShap(question.classifier)
    expected = method.attribute(question.x_1CHW, baselines, n_samples=9, target=question.target)
    for _ in ours.steps():
        pass
    np.testing.assert_allclose(ours.best().attribution_HW, summed(expected), atol=1e-5)


@pytest.fixture(scope="module")
def lenet() -> Classifier:
    return Classifier(load(Catalog().find("lenet-digits")))


def digit(classifier: nn.Module, index: int) -> Question:
    levels = torch.from_numpy(load_digits().images[index] / 16).float()[None, None]
    x_1CHW = (nn.functional.interpolate(levels, size=(32, 32), mode="bilinear") - 0.3055) / 0.3235
    target = int(classifier(x_1CHW).argmax())
    bounds = [torch.tensor([(level - 0.3055) / 0.3235]) for level in (0.0, 1.0)]
    return Question(classifier, x_1CHW, target, torch.zeros_like(x_1CHW), *bounds)


def test_integrated_gradients_are_complete_within_one_percent_on_twenty_digits(lenet: Classifier) -> None:
    for index in held_out_digits()[:20]:
        found = explain(digit(lenet, int(index)), Settings("integrated_gradients", max_batch=64))
        assert found.completeness is not None
        assert found.completeness.error <= 0.01
        assert found.attribution_HW.sum() == pytest.approx(found.completeness.attribution_sum, rel=1e-4)
        assert abs(found.completeness.output_difference) > 0.1


def test_integrated_gradients_are_complete_within_one_percent_on_twenty_pictures_of_a_larger_network() -> None:
    torch.manual_seed(0)
    network = Classifier(registry.squeezenet1_1(weights=None, num_classes=10).eval().requires_grad_(False))
    for seed in range(20):
        question = ask(network, seed=seed, size_hw=(48, 48))
        with torch.no_grad():
            ends = network(torch.cat([question.x_1CHW, question.baseline_1CHW]))
        target = int((ends[0] - ends[1]).abs().argmax())
        found = explain(ask(network, seed=seed, size_hw=(48, 48), target=target), Settings("integrated_gradients"))
        assert found.completeness is not None
        assert found.completeness.error <= 0.01


def test_steps_double_until_the_attributions_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spike(nn.Module):
        """Most of the change happens in a thirtieth of the path."""

        def forward(self, x_NCHW: Tensor) -> Tensor:
            x_N1 = x_NCHW.mean(dim=(1, 2, 3))[:, None]
            return torch.cat([torch.sigmoid(120 * (x_N1 - 0.503)), -x_N1], dim=1)

    question = ask(Spike(), x_1CHW=torch.ones(1, 3, 16, 12), target=0)
    coarse = explain(question, Settings("integrated_gradients", steps=8))
    found = explain(question, Settings("integrated_gradients"))
    assert coarse.completeness is not None
    assert found.completeness is not None
    assert coarse.completeness.error > 0.05
    assert coarse.evaluations == 10
    assert found.completeness.error <= 0.01
    assert found.evaluations in {2 + 32 + 64, 2 + 32 + 64 + 128}


@pytest.mark.parametrize("number", [1, 7, 50, 513, 1500])
def test_points_of_the_path_integrate_polynomials(number: int) -> None:
    alphas, weights = nodes(number)
    assert len(alphas) == len(weights) == number
    assert weights.sum() == pytest.approx(1)
    assert 0 < alphas.min() < alphas.max() < 1 or number == 1
    power = 1 if number < 8 else 9
    assert weights @ alphas**power == pytest.approx(1 / (power + 1))


SAMPLED = ["smoothgrad", "gradient_shap", "integrated_gradients", "occlusion", "lime", "kernel_shap"]
FEW = {"samples": 40, "steps": 24, "count": 8, "algorithm": "grid"}


@pytest.mark.parametrize("method", SAMPLED)
def test_the_answer_depends_on_the_seed_and_not_on_the_size_of_steps(method: Any) -> None:
    question = ask(Small())
    one = explain(question, Settings(method, max_batch=1, **FEW))
    other = explain(ask(Small()), Settings(method, max_batch=16, step_s=10.0, **FEW))
    scale = float(np.abs(one.attribution_HW).max())
    np.testing.assert_allclose(one.attribution_HW, other.attribution_HW, atol=1e-4 * scale)
    if method not in ("integrated_gradients", "occlusion"):
        third = explain(ask(Small()), Settings(method, seed=1, **FEW))
        assert np.abs(third.attribution_HW - one.attribution_HW).max() > 1e-3 * scale


@pytest.mark.parametrize("method", SAMPLED)
def test_the_best_so_far_can_be_had_after_any_step_and_comes_nearer(method: Any) -> None:
    made = attributor(ask(Small()), Settings(method, max_batch=1, **FEW))
    whole = explain(ask(Small()), Settings(method, **FEW)).attribution_HW
    gaps = []
    for done, total in made.steps():
        assert 0 <= done <= total
        if made.has_estimate:
            best = made.best()
            assert best.attribution_HW.shape == (16, 12)
            assert np.isfinite(best.attribution_HW).all()
            assert best.standard_error is None or np.isfinite(best.standard_error)
            gaps.append(float(np.abs(best.attribution_HW - whole).max()))
    assert len(gaps) > 10
    assert gaps[-1] < 1e-3 * np.abs(whole).max()
    assert gaps[-1] <= min(gaps[:5])


def test_the_standard_error_of_sampled_gradients_is_how_much_runs_differ() -> None:
    for method in ("smoothgrad", "gradient_shap"):
        runs = [explain(ask(Small()), Settings(method, samples=60, seed=seed, noise=0.1)) for seed in range(12)]  # type: ignore[arg-type]
        maps = np.stack([run.attribution_HW for run in runs])
        spread = maps.std(axis=0, ddof=1).mean() / np.abs(maps).max(axis=(1, 2)).mean()
        told = np.mean([run.standard_error for run in runs])
        assert told == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution"])
def test_a_method_that_changes_relu_refuses_a_network_without(method: Any) -> None:
    with pytest.raises(UnsupportedOption, match=f"ReLU for {method}"):
        explain(ask(Small().first, x_1CHW=torch.zeros(1, 3, 8, 8)), Settings(method))


def test_a_network_that_cannot_be_differentiated_is_told_to_perturb() -> None:
    class Cut(Small):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            return super().forward(x_NCHW).detach()

    with pytest.raises(UnsupportedOption, match="occlusion, lime or kernel_shap"):
        explain(ask(Cut()), Settings("integrated_gradients"))


def build(name: str) -> nn.Module:
    if name in SHAPES:
        return {"lenet5": LeNet5, "vgg_small": VggSmall}[name]()
    arguments: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    return registry.get_model(name, weights=None, **arguments)


SHAPES = {"lenet5": (1, 1, 32, 32), "vgg_small": (1, 1, 64, 64)}
LAYERS = {
    "lenet5": "c3",
    "vgg_small": "features.relu4_2",
    "resnet18": "layer4",
    "densenet121": "features",
    "squeezenet1_1": "classifier.2",
    "mobilenet_v3_small": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",
}


@pytest.mark.parametrize("name", LAYERS)
def test_grad_cam_finds_the_last_feature_map(name: str) -> None:
    probe = torch.zeros(SHAPES.get(name, (1, 3, 64, 64)))
    assert default_layer(build(name).eval(), probe) == LAYERS[name]


def test_grad_cam_refuses_what_has_no_feature_map() -> None:
    vit = registry.VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=4)
    question = ask(Classifier(vit), size_hw=(32, 32))
    with pytest.raises(UnknownLayer, match=r"keeps a spatial feature map.*conv_proj"):
        explain(question, Settings("grad_cam"))
    assert explain(question, Settings("grad_cam", layer="conv_proj")).layer == "conv_proj"
    with pytest.raises(UnknownLayer, match="'head' does not"):
        explain(ask(Small()), Settings("grad_cam", layer="head"))
    with pytest.raises(UnknownLayer, match="Close names: second"):
        explain(ask(Small()), Settings("grad_cam", layer="secnd"))


@pytest.mark.parametrize("layer", ["first", "second", "act1"])
def test_grad_cam_reads_layers_whose_output_is_overwritten(layer: str) -> None:
    found = explain(ask(Small(nn.ReLU(inplace=True))), Settings("grad_cam", layer=layer)).attribution_HW
    expected = explain(ask(Small()), Settings("grad_cam", layer=layer)).attribution_HW
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.max() > 0


class ChannelsLast(nn.Module):
    """``Small``, but its last map lies as (N, h, w, C), and a square of tokens passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.small = Small()
        self.turned = nn.Identity()
        self.tokens = nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = 2 * self.small.second(self.small.act1(2 * self.small.first(x_NCHW)))
        x_NhwC = self.turned(x_NCHW.permute(0, 2, 3, 1))
        self.tokens(x_NhwC.reshape(len(x_NhwC), 1, -1, 8))
        logits_NK: Tensor = 5 * self.small.head(self.small.act2(x_NhwC).mean(dim=(1, 2)))
        return logits_NK


def test_grad_cam_reads_maps_whose_channels_come_last() -> None:
    network = ChannelsLast()
    found = explain(ask(network), Settings("grad_cam", layer="turned"))
    expected = explain(ask(network), Settings("grad_cam", layer="small.second"))
    assert expected.attribution_HW.max() > 0
    np.testing.assert_allclose(found.attribution_HW, expected.attribution_HW, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnknownLayer, match=r"\(1, h, w, C\).*'tokens' does not"):
        explain(ask(network), Settings("grad_cam", layer="tokens"))


def test_grad_cam_finds_the_last_map_of_a_swin() -> None:
    swin = registry.SwinTransformer([2, 2], 16, [1, 1], [2, 4], [4, 4], num_classes=4).eval()
    question = ask(Classifier(swin), size_hw=(64, 64))
    found = explain(question, Settings("grad_cam")).attribution_HW
    normed = explain(question, Settings("grad_cam", layer="norm")).attribution_HW
    np.testing.assert_allclose(found, normed, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("layer", [None, "second"])
def test_grad_cam_counts_what_it_runs(layer: str | None) -> None:
    network, runs = Small(), []
    network.register_forward_hook(lambda *_: runs.append(1))
    found = explain(ask(network), Settings("grad_cam", layer=layer))
    assert found.evaluations == len(runs) == 2


def test_every_method_has_its_name() -> None:
    from typing import get_args

    from models.attribution import Method

    assert set(METHODS) == set(get_args(Method))
