"""The linear layer and the SVM on features of which the answer is known."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from models.errors import RetrainFailed
from models.retrain import svm
from models.retrain.frozen import EarlyStopping, Samples, fit_linear, unscaled
from models.retrain.options import RetrainOptions, unreported
from models.retrain.svm import fit_svm


def clouds(num, *, num_classes=3, spread=1.0, views=1, seed=0):
    """Classes around corners, in units that differ by three orders of magnitude between the features."""
    random = np.random.default_rng(seed)
    targets = np.arange(num) % num_classes
    centres = 3 * np.eye(num_classes, 5)
    features = centres[np.tile(targets, views)] + spread * random.normal(size=(views * num, 5))
    scaled = (features * [1, 10, 100, 0.1, 1] + [0, 5, -300, 2, 0]).astype(np.float32)
    return Samples(scaled, np.tile(targets, views), np.tile(np.arange(num), views))


def probabilities(fitted, samples):
    return softmax(samples.features.astype(float) @ fitted.weight.T.astype(float) + fitted.bias, axis=1)


def right(fitted, samples):
    return float((probabilities(fitted, samples).argmax(1) == samples.targets).mean())


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("mode", ["head", "svm"])
def test_both_separate_clouds_that_can_be_told_apart(mode, num_classes):
    training, held = (clouds(60, num_classes=num_classes, spread=0.5, seed=seed) for seed in (0, 1))
    options = RetrainOptions(mode=mode)
    if mode == "svm":
        fitted = fit_svm(training, num_classes, options, unreported)
    else:
        fitted = fit_linear(training, held, num_classes, options, unreported)
    assert fitted.weight.shape == (num_classes, 5)
    assert fitted.weight.dtype == fitted.bias.dtype == np.float32
    assert right(fitted, clouds(300, num_classes=num_classes, spread=0.5, seed=2)) >= 0.98


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_svms_probabilities_are_sensible(num_classes):
    training, fresh = (clouds(150, num_classes=num_classes, spread=1.6, views=2, seed=seed) for seed in (0, 1))
    fitted = fit_svm(training, num_classes, RetrainOptions(mode="svm"), unreported)
    told = probabilities(fitted, fresh)
    assert told.sum(axis=1) == pytest.approx(1)
    accuracy, confidence = right(fitted, fresh), float(told.max(axis=1).mean())
    assert 0.6 < accuracy < 0.97
    assert confidence == pytest.approx(accuracy, abs=0.1)


def test_few_pictures_all_told_right_do_not_make_it_certain():
    training = clouds(12, spread=0.01)
    fitted = fit_svm(training, 3, RetrainOptions(mode="svm"), unreported)
    told = probabilities(fitted, training)
    assert right(fitted, training) == 1
    assert 0.6 < told.max(axis=1).mean() < 0.95


def test_the_scale_changes_no_answer_of_the_svm():
    training, fresh = clouds(60, spread=1.6), clouds(200, spread=1.6, seed=1)
    scaler = StandardScaler().fit(training.features)
    fitted = fit_svm(training, 3, RetrainOptions(mode="svm"), unreported)
    strength = float(fitted.told.partition("C = ")[2].split()[0])
    plain = LinearSVC(C=strength, random_state=0, max_iter=svm.MAX_ITERATIONS)
    plain.fit(scaler.transform(training.features), training.targets)
    answers = plain.predict(scaler.transform(fresh.features))
    assert np.array_equal(answers, probabilities(fitted, fresh).argmax(axis=1))


def test_versions_of_one_picture_stay_on_one_side_of_every_fold(monkeypatch):
    seen = []

    def spy(machine, features, targets, *, cv, method):
        seen.extend(cv)
        return np.zeros((len(targets), 3))

    monkeypatch.setattr(svm, "cross_val_predict", spy)
    training = clouds(24, views=4)
    fit_svm(training, 3, RetrainOptions(mode="svm"), unreported)
    assert len(seen) == len(svm.STRENGTHS) * svm.MAX_FOLDS
    for kept, taken in seen:
        assert len(kept) + len(taken) == 96
        assert set(training.groups[kept]).isdisjoint(training.groups[taken])
        assert len(set(training.targets[kept])) == 3


def test_of_many_pictures_some_choose_the_strength_and_all_are_fitted(monkeypatch):
    monkeypatch.setattr(svm, "MAX_SEARCHED", 30)
    training = clouds(90, spread=0.5, views=2)
    chosen = svm._some(training, seed=1)
    assert np.bincount(chosen.targets).tolist() == [20, 20, 20]
    assert len(set(chosen.groups)) == 30
    assert right(fit_svm(training, 3, RetrainOptions(mode="svm"), unreported), training) > 0.97


def test_folding_the_standardisation_in_keeps_every_logit():
    samples, random = clouds(30), np.random.default_rng(1)
    scaler = StandardScaler().fit(samples.features)
    weight, bias = random.normal(size=(3, 5)), random.normal(size=3)
    fitted = unscaled(weight, bias, scaler, "")
    expected = scaler.transform(samples.features) @ weight.T + bias
    np.testing.assert_allclose(samples.features @ fitted.weight.T + fitted.bias, expected, atol=1e-3)


def test_a_feature_that_never_changes_does_no_harm():
    training = clouds(60, spread=0.5)
    training.features[:, 3] = 7
    for fitted in (
        fit_svm(training, 3, RetrainOptions(mode="svm"), unreported),
        fit_linear(training, training, 3, RetrainOptions(), unreported),
    ):
        assert np.isfinite(fitted.weight).all()
        assert right(fitted, training) > 0.9


def test_the_weights_of_the_lowest_validation_loss_are_kept():
    stopping, network = EarlyStopping(RetrainOptions(mode="full")), nn.Linear(1, 1)
    losses = [0.9, 0.5, 0.6, 0.7, 0.8, 0.5, 0.51, 0.3]
    stops = []
    for epoch, loss in enumerate(losses, start=1):
        nn.init.constant_(network.weight, epoch)
        stops.append(stopping.should_stop(network, epoch, loss))
    assert stops == [False] * 6 + [True, False]
    assert (stopping.best_epoch, stopping.best_loss) == (8, 0.3)
    assert float(stopping.best_state["weight"]) == 8


def test_training_ends_when_validation_no_longer_improves_and_says_what_was_kept():
    told = []
    training, held = clouds(60, spread=2.5), clouds(60, spread=2.5, seed=9)
    fitted = fit_linear(training, held, 3, RetrainOptions(), lambda *report: told.append(report))
    assert len(told) < 200
    assert all(stage == "training" and total == 200 for stage, _, total, _ in told)
    assert told[0][3].startswith("loss ")
    best = min(told, key=lambda report: float(report[3].split()[1].rstrip(",")))
    kept = int(fitted.told.partition("after epoch ")[2].split()[0])
    assert told[kept - 1][3].split()[1] == best[3].split()[1]
    assert told[-1][1] - kept >= 20


@pytest.mark.parametrize("mode", ["head", "svm"])
def test_the_same_seed_gives_the_same_weights(mode):
    def fit(seed):
        training, options = clouds(60, spread=1.5), RetrainOptions(mode=mode, seed=seed)
        if mode == "svm":
            return fit_svm(training, 3, options, unreported)
        return fit_linear(training, clouds(30, seed=4), 3, options, unreported)

    torch.manual_seed(1)
    first = fit(5)
    torch.manual_seed(2)
    second = fit(5)
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0.0}, "learning_rate: expected above 0"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"validation_fraction": 0.0}, "validation_fraction: expected above 0 and at most 0.5, got 0.0"),
        ({"validation_fraction": 0.6}, "validation_fraction"),
        ({"views": 0}, "views"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_option_out_of_bounds_is_named(wrong, says):
    with pytest.raises(RetrainFailed, match=says):
        RetrainOptions(**wrong)
