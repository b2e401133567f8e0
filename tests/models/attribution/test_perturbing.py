"""LIME, KernelSHAP and occlusion on functions whose right answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import KernelShap, Lime
from torch import Tensor

from models.attribution import Settings, explain
from models.attribution.kernel_shap import KernelShap as Ours
from models.attribution.lime import Lime as OurLime
from models.attribution.lime import similarities
from models.attribution.question import Question
from models.attribution.switching import MAX_CELLS
from models.errors import UnsupportedOption

from .questions import Small, ask, play

LINEAR = torch.linspace(-1, 2, 12, dtype=torch.float64)


def linear(shown_NM: Tensor) -> Tensor:
    return shown_NM @ LINEAR + 0.5


def pairs(shown_NM: Tensor) -> Tensor:
    """Each pair (0, 1), (2, 3), ... adds 3 if both are shown: 1.5 to each one's Shapley value."""
    return linear(shown_NM) + 3 * (shown_NM[:, ::2] * shown_NM[:, 1::2]).sum(1)


def triples(shown_NM: Tensor) -> Tensor:
    """Each triple (0, 4, 8), ... adds 6 if all are shown: 2 to each one's Shapley value."""
    return linear(shown_NM) + 6 * (shown_NM[:, :4] * shown_NM[:, 4:8] * shown_NM[:, 8:]).sum(1)


SHAPLEY = {linear: LINEAR, pairs: LINEAR + 1.5, triples: LINEAR + 2.0}


@pytest.mark.parametrize("value", [linear, pairs, triples])
def test_kernel_shap_finds_known_shapley_values_within_two_standard_errors(value: Any) -> None:
    scores = []
    for seed in range(6):
        found = explain(play(value, rows=3, columns=4), Settings("kernel_shap", samples=600, seed=seed, max_batch=256))
        assert found.weights is not None
        assert found.weight_errors is not None
        gaps = found.weights - SHAPLEY[value].numpy()
        # captum hands the coefficients over in single precision.
        scores.append(np.abs(gaps) / np.maximum(found.weight_errors, 1e-4))
        assert found.completeness is not None
        assert found.completeness.error < 1e-3
        assert found.evaluations == 602
    assert np.mean(np.array(scores) <= 2) >= 0.9
    if value is triples:
        assert 0.5 < np.sqrt(np.mean(np.square(scores))) < 1.5, "the errors are of the right size, not just large"


def test_kernel_shap_is_exact_when_the_samples_suffice_for_every_subset() -> None:
    found = explain(play(triples, rows=3, columns=4), Settings("kernel_shap", samples=4096, max_batch=512))
    assert found.weights is not None
    assert found.evaluations == 4096
    assert found.standard_error == 0
    np.testing.assert_allclose(found.weights, SHAPLEY[triples], atol=2e-3)


def test_kernel_shap_agrees_with_captum_given_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    question = play(triples, rows=3, columns=4)
    settings = Settings("kernel_shap", samples=500, max_batch=256)
    masks = Ours(question, settings).masks(502)

    def perturb(*_: Any, **__: Any) -> Any:
        yield from torch.from_numpy(masks).long()[:, None]

    monkeypatch.setattr(KernelShap, "kernel_shap_perturb_generator", perturb)
    captums = KernelShap(question.classifier).attribute(
        question.x_1CHW,
        question.baseline_1CHW,
        target=0,
        feature_mask=torch.from_numpy(question.segments_HW)[None, None],
        n_samples=502,
        perturbations_per_eval=100,
        return_input_shape=False,
    )
    found = explain(question, settings)
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, captums.numpy().reshape(-1), atol=1e-3)


def test_subsets_are_drawn_from_the_shapley_kernel_with_their_complements() -> None:
    masks = Ours(play(linear, rows=3, columns=4), Settings("kernel_shap", samples=4000)).masks(4002)[2:]
    assert (masks[::2] == ~masks[1::2]).all()
    sizes = np.arange(1, 12)
    expected = 1 / (sizes * (12 - sizes))
    shares = np.bincount(masks.sum(axis=1), minlength=13)[1:12] / len(masks)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.025)


def test_lime_agrees_with_captum_given_the_same_masks_and_kernel() -> None:
    question = play(triples, rows=3, columns=4)
    settings = Settings("lime", samples=200, ridge=2.0, kernel_width=0.3, max_batch=64)
    found = explain(question, settings)
    masks = OurLime(question, settings).masks(200)

    def perturb(*_: Any, **__: Any) -> Any:
        yield from torch.from_numpy(masks).long()[:, None]

    def similar(_: Any, __: Any, mask: Tensor, **___: Any) -> float:
        cosine = torch.nn.functional.cosine_similarity(mask.double(), torch.ones_like(mask).double()).item()
        return float(np.exp(-((1 - cosine) ** 2) / (2 * 0.3**2)))

    captums = Lime(question.classifier, SkLearnRidge(alpha=2.0), similar, perturb).attribute(
        question.x_1CHW,
        question.baseline_1CHW,
        target=0,
        feature_mask=torch.from_numpy(question.segments_HW)[None, None],
        n_samples=200,
        perturbations_per_eval=50,
        return_input_shape=False,
    )
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, captums.numpy().reshape(-1), atol=1e-4)
    assert similarities(masks, 0.3)[0] == 1


PLANTED = (7, 18, 33)


def planted(shown_NM: Tensor) -> Tensor:
    """A detector that saturates: two of three planted pieces suffice for most of its logit."""
    return 4 * torch.tanh(shown_NM[:, PLANTED].sum(1)) - 0.3 * shown_NM[:, 20]


def test_lime_finds_planted_superpixels() -> None:
    found = explain(play(planted, rows=6, columns=7), Settings("lime", samples=1000, max_batch=256))
    assert found.weights is not None
    assert found.weight_errors is not None
    assert set(np.argsort(-found.weights)[:3]) == set(PLANTED)
    assert int(np.argmin(found.weights)) == 20
    others = np.delete(np.arange(42), [*PLANTED, 20])
    assert np.abs(found.weights[others]).max() < 0.25 * found.weights[list(PLANTED)].min()
    assert (found.weights[list(PLANTED)] > 5 * found.weight_errors[list(PLANTED)]).all()
    assert found.attribution_HW[2 * (18 // 7), 2 * (18 % 7)] == pytest.approx(found.weights[18])


def test_limes_r2_tells_a_linear_function_from_a_tangled_one() -> None:
    def tangled(shown_NM: Tensor) -> Tensor:
        return torch.cos(np.pi * shown_NM.sum(1))

    settings = Settings("lime", samples=400, ridge=0.01, max_batch=256)
    assert (explain(play(linear, rows=3, columns=4), settings).surrogate_r2 or 0) > 0.999
    assert (explain(play(tangled, rows=3, columns=4), settings).surrogate_r2 or 0) < 0.2


def test_limes_standard_errors_are_how_much_runs_differ() -> None:
    runs = [
        explain(play(triples, rows=3, columns=4), Settings("lime", samples=300, seed=seed, max_batch=256))
        for seed in range(15)
    ]
    spread = np.stack([run.weights for run in runs]).std(axis=0, ddof=1)  # type: ignore[misc]
    told = np.mean([run.weight_errors for run in runs], axis=0)  # type: ignore[arg-type]
    assert np.mean(told / spread) == pytest.approx(1, abs=0.3)


def test_targets_of_one_image_share_what_was_evaluated() -> None:
    memo: dict[str, Any] = {}
    first = ask(Small(), target=0, targets=(0, 2), memo=memo)
    second = ask(Small(), target=2, targets=(0, 2), memo=memo)
    settings = Settings("lime", samples=60, count=6, algorithm="grid")
    assert explain(first, settings).evaluations == 60
    found = explain(second, settings)
    assert found.evaluations == 0
    alone = explain(ask(Small(), target=2), settings)
    np.testing.assert_allclose(found.attribution_HW, alone.attribution_HW, atol=1e-5)


def test_perturbation_uses_the_quicker_network_and_gradients_do_not() -> None:
    calls: list[int] = []
    network = Small()

    def quick(x_NCHW: Tensor) -> Tensor:
        calls.append(len(x_NCHW))
        logits_NK: Tensor = network(x_NCHW)
        return logits_NK

    explain(ask(network, forward=quick), Settings("occlusion"))
    assert calls
    calls.clear()
    explain(ask(network, forward=quick), Settings("saliency"))
    assert not calls


BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "occlusion", "window_px": 13}, "window of at most 12 pixels, got 13"),
    ({"method": "occlusion", "window_px": 2, "stride_px": 3}, "stride of at most the window's 2 pixels"),
    ({"method": "lime", "samples": MAX_CELLS, "algorithm": "grid"}, "would not fit into memory"),
]


@pytest.mark.parametrize(("settings", "says"), BAD, ids=["window", "stride", "samples"])
def test_settings_that_cannot_be_met_are_refused_before_anything_runs(settings: dict[str, Any], says: str) -> None:
    question: Question = ask(Small())
    with pytest.raises(UnsupportedOption, match=says):
        explain(question, Settings(**settings))
