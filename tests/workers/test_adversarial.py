"""Attacks as a long job: every figure against the stored file, every reason to stop, every refusal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog import Catalog
from models.images import Decoded, decode
from models.preprocess import Preprocess
from models.recipes import digits
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import AdversarialOptions
from visionpipe.schemas.results import AdversarialResult
from workers.adversarial import AdversarialRuntime
from workers.classification import ClassificationRuntime
from workers.hosted import HostedModel

from .conftest import write_model

LEVELS = [8, 16, 24, 32]
EPSILONS = [levels / 255 for levels in LEVELS]
DIGITS = digits.test_split()[:6].tolist()


def host(name: str, folder: Path | None = None, precision: str = "fp32") -> HostedModel:
    model = HostedModel(Catalog(folder).find(name), device="cpu")
    model.set_precision(precision)
    return model


def warm(hosted: HostedModel) -> AdversarialRuntime:
    runtime = AdversarialRuntime(hosted)
    runtime.warm_up(1)
    return runtime


@pytest.fixture(scope="module")
def lenet() -> HostedModel:
    return host("lenet-digits")


@pytest.fixture(scope="module")
def runtime(lenet: HostedModel) -> AdversarialRuntime:
    return warm(lenet)


class Kept(dict[str, bytes]):
    """Stands in for the store of artifacts."""

    def __call__(self, data: bytes, media_type: str) -> ArtifactRef:
        assert media_type == "image/png"
        key = f"artifact:{len(self):064x}"
        self[key] = data
        return ArtifactRef(key=key, media_type=media_type, size_bytes=len(data))


def make_work(image: Image.Image, **options: Any) -> Any:
    return SimpleNamespace(
        request=SimpleNamespace(options=AdversarialOptions(**options), task="adversarial"),
        image=Decoded(image),
        size_wh=image.size,
        keep=Kept(),
        prepared=None,
        num_pixels=0,
        stopping=False,
        stop_reason=None,
    )


def digit(index: int) -> Image.Image:
    return Image.fromarray(digits.pixels()[index])


def finish(runtime: AdversarialRuntime, work: Any, on_progress: Callable[[Progress], None] = lambda _: None) -> Any:
    runtime.prepare(work)
    steps = runtime.steps(work)
    while True:
        try:
            on_progress(next(steps))
        except StopIteration as end:
            return end.value() if callable(end.value) else end.value


def ask(runtime: AdversarialRuntime, work: Any, ref: ArtifactRef) -> tuple[torch.Tensor, Image.Image]:
    """What classification says of a stored file: probabilities (K,), and the decoded picture."""
    stored = decode(work.keep[ref.key], max_bytes=2**20, max_pixels=2**24).image
    classification = ClassificationRuntime(runtime.hosted)
    again = SimpleNamespace(image=Decoded(stored), prepared=None)
    classification.prepare(again)  # type: ignore[arg-type]
    return classification.forward([again])[0], stored  # type: ignore[list-item]


def check_files(runtime: AdversarialRuntime, work: Any, image: Image.Image, result: AdversarialResult) -> None:
    """Hold every figure of a result against its files."""
    how = runtime.hosted.card.preprocess
    original = Preprocess(how).levels(image).numpy().astype(int)
    true_id = result.true_class.class_id
    for attack in result.attacks:
        probabilities, stored = ask(runtime, work, attack.picture)
        assert stored.mode == "RGB"
        assert stored.size == result.picture_size_wh
        assert attack.after.class_id == int(probabilities.argmax())
        assert attack.after.score == pytest.approx(float(probabilities.max()), abs=1e-6)
        assert attack.true_score == pytest.approx(float(probabilities[true_id]), abs=1e-6)
        if result.target is None:
            assert attack.success == (attack.after.class_id != true_id)
        else:
            assert attack.success == (attack.after.class_id == result.target.class_id)
            assert attack.target_score == pytest.approx(float(probabilities[result.target.class_id]), abs=1e-6)
        moved = Preprocess(how).levels(stored).numpy().astype(int) - original
        assert attack.norms.linf == np.abs(moved).max() / 255
        assert attack.norms.l2 == pytest.approx(np.sqrt((moved**2).sum()) / 255)
        assert getattr(attack.norms, result.norm) <= attack.epsilon
        drawn = np.asarray(Image.open(io.BytesIO(work.keep[attack.difference.key])))
        assert drawn.shape == (*result.picture_size_wh[::-1], 3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_every_figure_is_that_of_the_stored_file(runtime, method, norm):
    epsilons = EPSILONS if norm == "linf" else [0.3, 1.0, 3.0]
    successes = 0
    for index in DIGITS:
        work = make_work(digit(index), method=method, norm=norm, epsilons=epsilons)
        result = finish(runtime, work)
        assert [attack.epsilon for attack in result.attacks] == epsilons
        assert (result.method, result.norm, result.stopped, result.partial) == (method, norm, "finished", False)
        assert result.image_size_wh == (8, 8)
        assert {attack.steps for attack in result.attacks} == {40 if method == "pgd" else 1}
        assert result.before == result.true_class
        check_files(runtime, work, digit(index), result)
        successes += sum(attack.success for attack in result.attacks)
    assert 0 < successes < len(DIGITS) * len(epsilons)


def test_a_larger_epsilon_fools_pgd_at_least_as_often(runtime):
    for index in DIGITS:
        result = finish(runtime, make_work(digit(index), epsilons=EPSILONS))
        fooled = [attack.success for attack in result.attacks]
        assert fooled == sorted(fooled)


def test_a_target_is_reached(runtime):
    index = DIGITS[0]
    says = str(digits.targets()[index])
    for target in ("3", "5"):
        work = make_work(digit(index), target=target, epsilons=[0.4])
        result = finish(runtime, work)
        (attack,) = result.attacks
        assert attack.success
        assert (attack.after.label, result.target.label, result.before.label) == (target, target, says)
        assert attack.target_score == attack.after.score > result.target.score
        check_files(runtime, work, digit(index), result)


def test_the_seed_repeats_and_another_one_does_not(runtime):
    def pictures(seed: int) -> list[bytes]:
        work = make_work(digit(DIGITS[1]), epsilons=[0.05], steps=2, seed=seed)
        finish(runtime, work)
        return list(work.keep.values())

    assert pictures(7) == pictures(7) != pictures(8)


@pytest.mark.parametrize("precision", ["bf16"])
def test_success_is_that_of_the_answering_precision(precision):
    runtime = warm(host("lenet-digits", precision=precision))
    successes = 0
    for index in DIGITS:
        work = make_work(digit(index), epsilons=EPSILONS, steps=10)
        result = finish(runtime, work)
        check_files(runtime, work, digit(index), result)
        successes += sum(attack.success for attack in result.attacks)
    assert successes > 4


def test_an_image_that_is_taken_for_another_already_needs_no_change(runtime):
    index = DIGITS[0]
    wrong = (int(digits.targets()[index]) + 1) % 10
    work = make_work(digit(index), true_class=wrong, epsilons=[0.01, 0.1])
    result = finish(runtime, work)
    assert (result.stopped, result.partial, result.true_class.class_id) == ("converged", False, wrong)
    for attack in result.attacks:
        assert attack.success
        assert (attack.steps, attack.norms.linf, attack.norms.changed) == (0, 0, 0)
        assert attack.after == result.before
    check_files(runtime, work, digit(index), result)
    assert "without any change" in result.summary()


def test_such_an_image_can_still_be_led_to_a_target(runtime):
    index = DIGITS[0]
    right = int(digits.targets()[index])
    result = finish(
        runtime, make_work(digit(index), true_class=(right + 1) % 10, target=(right + 2) % 10, epsilons=[0.5])
    )
    assert result.attacks[0].success
    assert result.attacks[0].steps == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "eleven"}, "label of 'lenet-digits'"),
        ({"target": 10}, "from 0 to 9"),
        ({"true_class": "x"}, "label of 'lenet-digits'"),
        ({"target": 3, "true_class": "3"}, "other than the right class"),
    ],
    ids=["unknown label", "unknown index", "unknown right class", "target is the right class"],
)
def test_classes_that_cannot_be_meant_are_refused_before_anything_is_computed(runtime, options, message):
    with pytest.raises(InvalidRequestError, match=message):
        runtime.prepare(make_work(digit(DIGITS[0]), **options))


def test_a_target_that_the_network_says_already_is_refused(runtime):
    says = int(digits.targets()[DIGITS[0]])
    with pytest.raises(InvalidRequestError, match="says already"):
        finish(runtime, make_work(digit(DIGITS[0]), target=says))


def test_an_epsilon_below_one_level_allows_no_change_and_is_no_error(runtime):
    work = make_work(digit(DIGITS[0]), epsilons=[0.5 / 255])
    result = finish(runtime, work)
    assert (result.attacks[0].success, result.attacks[0].norms.linf) == (False, 0)


@pytest.mark.parametrize("options", [{}, {"method": "fgsm"}, {"norm": "l2", "restarts": 3}], ids=str)
def test_work_that_should_stop_before_it_began_gives_at_least_one_attack(runtime, options):
    work = make_work(digit(DIGITS[0]), **{"epsilons": None, **options})
    work.stopping, work.stop_reason = True, "deadline"
    told: list[Progress] = []
    result = finish(runtime, work, told.append)
    assert not told
    assert (result.partial, result.stopped) == ((False, "finished") if "method" in options else (True, "deadline"))
    assert len(result.attacks) == 1
    check_files(runtime, work, digit(DIGITS[0]), result)


def test_a_stop_hands_over_the_best_so_far_at_the_next_step(runtime):
    work = make_work(digit(DIGITS[0]), epsilons=EPSILONS, steps=1000)
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        assert not work.stopping
        told.append(progress)
        work.stopping = len(told) == 12

    result = finish(runtime, work, stop)
    assert (result.partial, result.stopped) == (True, "cancelled")
    assert [attack.steps for attack in result.attacks] == [12] * 4
    check_files(runtime, work, digit(DIGITS[0]), result)


def test_a_time_budget_is_kept(runtime):
    work = make_work(digit(DIGITS[0]), epsilons=[1 / 255], steps=10_000, time_budget_s=0.05)
    told: list[Progress] = []
    result = finish(runtime, work, told.append)
    assert (result.partial, result.stopped) == (True, "time_budget")
    assert 1 <= result.attacks[0].steps < 10_000
    assert told[-1].eta_s <= 0.05


def test_progress_counts_micro_batches_of_restarts_and_epsilons(runtime, monkeypatch):
    work = make_work(digit(DIGITS[0]), epsilons=EPSILONS, steps=3, restarts=5)
    monkeypatch.setattr(runtime.costs, "_max_batch", 7)
    told: list[Progress] = []
    runtime.prepare(work)
    estimate = runtime.estimate(work)
    result = finish(runtime, work, told.append)
    assert estimate.total == told[-1].done == told[-1].total == 3 * (3 + 1)
    assert estimate.eta_s > 0
    assert "fooled at" in told[-1].note
    assert [attack.steps for attack in result.attacks] == [15] * 4


def test_one_micro_batch_is_no_larger_than_a_tenth_of_a_second_of_arithmetic(runtime, monkeypatch):
    assert runtime.costs.macs_per_value * 1024 == 416_520
    assert runtime.costs.max_batch(1024) == 256
    monkeypatch.setattr(runtime.costs, "macs_per_value", 1.8e9 / 150_528)
    assert runtime.costs.max_batch(150_528) == 1
    monkeypatch.setattr(runtime.costs, "macs_per_value", 0)
    assert runtime.costs.max_batch(2**22) == 2


CROPPED = """
name = "{name}"
tasks = ["classification"]
network = "net:Tiny"
licence = "CC0-1.0"
[preprocess]
resize = 40
crop = 32
[provenance]
origin = "made for a test"
{more}
"""
TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.head = nn.Linear(72, {classes})

    def forward(self, x_NCHW):
        return self.head({input}(x_NCHW))

def prepared(picture):
    return torch.zeros(3, 32, 32)
"""


def tiny(folder: Path, *, classes: int = 4, body: str = "self.body", more: str = "") -> HostedModel:
    network = TINY.replace("{classes}", str(classes)).replace("{input}", body)
    write_model(folder, "tiny", card=CROPPED.replace("{more}", more), network=network)
    return host("tiny", folder)


def test_a_cropped_photograph_is_stored_resized_and_changed_in_the_crop_alone(tmp_path):
    runtime = warm(tiny(tmp_path))
    random = np.random.default_rng(0)
    photograph = Image.fromarray(random.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    work = make_work(photograph, epsilons=[0.03, 0.2], amplify=4)
    result = finish(runtime, work)
    assert result.picture_size_wh == (60, 40)
    assert result.attacks[1].success
    check_files(runtime, work, photograph, result)
    _, stored = ask(runtime, work, result.attacks[1].picture)
    resized = np.asarray(photograph.resize((60, 40), Image.Resampling.BILINEAR)).astype(int)
    moved = np.asarray(stored).astype(int) - resized
    assert moved[4:36, 14:46].any()
    assert result.attacks[1].norms.changed == pytest.approx((moved != 0).any(-1).mean())
    drawn = np.asarray(Image.open(io.BytesIO(work.keep[result.attacks[1].difference.key])))
    assert (drawn == np.clip(128 + 4 * moved, 0, 255)).all()
    moved[4:36, 14:46] = 0
    assert not moved.any()


def test_a_model_with_its_own_preprocessing_is_left_out_and_refused(tmp_path):
    runtime = AdversarialRuntime(tiny(tmp_path, more='[hooks]\npreprocess = "net:prepared"'))
    with pytest.raises(ModelLoadError, match="preprocess hook"):
        runtime.warm_up(1)
    with pytest.raises(InvalidRequestError, match="preprocess hook"):
        runtime.prepare(make_work(digit(DIGITS[0])))


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"classes": 1}, ModelLoadError),
        ({"body": "torch.nan * self.body"}, ArithmeticError),
        ({"body": "(lambda x: self.body(x.detach()))"}, RuntimeError),
    ],
    ids=["one class", "not a number", "no gradient"],
)
def test_a_network_that_cannot_be_attacked_fails_at_warm_up(tmp_path, how, error):
    with pytest.raises(error):
        AdversarialRuntime(tiny(tmp_path, **how)).warm_up(1)


def test_a_class_beyond_a_network_without_labels_is_refused(tmp_path):
    runtime = warm(tiny(tmp_path))
    with pytest.raises(InvalidRequestError, match="from 0 to 3, got 4"):
        finish(runtime, make_work(digit(DIGITS[0]), target=4))


def test_starting_a_worker_does_not_import_matplotlib_captum_or_sympy():
    import subprocess
    import sys

    code = (
        "import sys; from models.catalog import Catalog; from workers.hosted import HostedModel;"
        "from workers.adversarial import RUNTIME;"
        "model = HostedModel(Catalog(None).find('lenet-digits'), device='cpu');"
        "model.set_precision('fp32'); RUNTIME(model).warm_up(1);"
        "print([name for name in ('matplotlib', 'captum', 'sympy', 'sklearn', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
