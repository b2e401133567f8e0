"""LIME, KernelSHAP and occlusion on functions whose right answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import KernelShap, Lime
from torch import Tensor

from models.attribution import Settings, attributor, explain
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
    np.testing.assert_allclose(found.weights, SHAPLEY[triples], atol=1e-9)


@pytest.mark.parametrize("columns", [3, 4])
def test_kernel_shap_shares_out_exactly_what_takes_every_superpixel(columns: int) -> None:
    def every(shown_NM: Tensor) -> Tensor:
        return shown_NM.prod(1)

    pieces = 4 * columns
    settings = Settings("kernel_shap", samples=2**pieces, max_batch=8192, step_s=10)
    found = explain(play(every, rows=4, columns=columns), settings)
    assert found.weights is not None
    assert found.completeness is not None
    np.testing.assert_allclose(found.weights, 1 / pieces, atol=1e-6)
    assert found.completeness.error < 1e-12


def test_kernel_shap_adds_up_however_many_samples_there_are() -> None:
    def power(shown_NM: Tensor) -> Tensor:
        return shown_NM.mean(1) ** 4

    found = explain(play(power, rows=4, columns=5), Settings("kernel_shap", samples=20_000, max_batch=8192, step_s=10))
    assert found.weights is not None
    assert found.completeness is not None
    assert found.completeness.error < 1e-12
    assert found.weight_errors is not None
    scores = (found.weights - 1 / 20) / found.weight_errors
    assert 0.4 < np.sqrt(np.mean(np.square(scores))) < 1.8


def test_kernel_shap_agrees_with_captum_given_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    question = play(triples, rows=3, columns=4)
    settings = Settings("kernel_shap", samples=500, max_batch=256)
    masks = Ours(question, settings).masks(0, 502)

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
    masks = Ours(play(linear, rows=3, columns=4), Settings("kernel_shap", samples=4000)).masks(2, 4002)
    assert (masks[::2] == ~masks[1::2]).all()
    sizes = np.arange(1, 12)
    expected = 1 / (sizes * (12 - sizes))
    shares = np.bincount(masks.sum(axis=1), minlength=13)[1:12] / len(masks)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.025)


def test_lime_agrees_with_captum_given_the_same_masks_and_kernel() -> None:
    question = play(triples, rows=3, columns=4)
    settings = Settings("lime", samples=200, ridge=2.0, kernel_width=0.3, max_batch=64)
    found = explain(question, settings)
    masks = OurLime(question, settings).masks(0, 200)

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


@pytest.mark.parametrize("method", ["lime", "kernel_shap"])
def test_what_samples_meet_by_construction_is_not_told(method: Any) -> None:
    made = attributor(play(planted, rows=6, columns=7), Settings(method, samples=500, max_batch=4))
    steps = made.steps()
    while made.evaluations < 8:
        next(steps)
    early = made.best()
    assert (early.surrogate_r2, early.completeness, early.standard_error) == (None, None, None)
    np.testing.assert_array_equal(made.best_map(), early.attribution_HW)
    for _ in steps:
        pass
    late = made.best()
    assert late.standard_error is not None
    assert (late.surrogate_r2 is None, late.completeness is None) == (method != "lime", method == "lime")


@pytest.mark.parametrize(("method", "least"), [("lime", 15), ("kernel_shap", 28)])
def test_too_few_samples_are_refused(method: Any, least: int) -> None:
    question = play(triples, rows=3, columns=4)
    with pytest.raises(UnsupportedOption, match=f"at least {least} samples to weigh 12 superpixels .* got {least - 1}"):
        explain(question, Settings(method, samples=least - 1))
    assert explain(question, Settings(method, samples=least)).standard_error is not None


def test_masks_are_the_same_wherever_they_are_asked_for() -> None:
    made = Ours(play(linear, rows=3, columns=4), Settings("kernel_shap", samples=2000))
    whole = made.masks(0, 1500)
    for start, end in ((0, 1), (1, 3), (2, 258), (257, 259), (258, 514), (700, 1500)):
        np.testing.assert_array_equal(made.masks(start, end), whole[start:end])


def test_a_step_copies_the_masks_it_shows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = OurLime(play(linear, rows=3, columns=4), Settings("lime", samples=100_000))
    made.masks(0, 100_000)
    copied: list[int] = []
    concatenate = np.concatenate

    def watched(parts: Any, **how: Any) -> Any:
        copied.append(sum(map(len, parts)))
        return concatenate(parts, **how)

    monkeypatch.setattr(np, "concatenate", watched)
    made.inputs(99_000, 16)
    assert sum(copied) <= 2 * 256


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
