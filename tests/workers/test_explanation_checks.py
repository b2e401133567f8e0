"""The checks of an explanation, as the runtime drives them and the result tells them."""

import hashlib
import io
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from models.attribution import Question, Settings, explain
from models.catalog import Catalog
from models.classifier import Classifier
from models.loading import load
from models.recipes import stn_canvases, vgg_digits
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import ExplanationOptions
from visionpipe.schemas.results import Attribution
from workers.explanation_checks import Checks

SETTINGS = Settings("guided_backprop")


class Store:
    def __init__(self):
        self.kept = []

    def __call__(self, data, media_type):
        self.kept.append((data, media_type))
        return ArtifactRef(
            key=f"artifact:{hashlib.sha256(data).hexdigest()}", media_type=media_type, size_bytes=len(data)
        )


@pytest.fixture(scope="module")
def question():
    x_1CHW = vgg_digits.normalised(stn_canvases.examples(1))
    classifier = Classifier(load(Catalog().find("vgg-digits")))
    target = int(classifier(x_1CHW).argmax())
    return Question(classifier, x_1CHW, target, torch.zeros_like(x_1CHW), torch.tensor([-0.6]), torch.tensor([3.4]))


@pytest.fixture
def make(question):
    def make(**options):
        request = SimpleNamespace(options=ExplanationOptions(method="guided_backprop", **options))
        work = SimpleNamespace(request=request, keep=Store())
        return Checks(work, question, SETTINGS, explain(question, SETTINGS)), work.keep

    return make


def test_both_checks_fill_their_fields_of_the_result(make):
    checks, store = make(curves=True, curve_steps=5, sanity_check={"max_depths": 3})
    told = list(checks.steps())
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    fields = checks.fields()
    assert set(fields) == {"curves", "sanity"} <= set(Attribution.model_fields)
    curves, sanity = fields["curves"], fields["sanity"]
    assert len(curves.deletion.scores) == len(curves.insertion.scores) == 5
    assert curves.deletion.auc < curves.insertion.auc
    assert sanity.verdict == "fails"
    assert [depth.layer for depth in sanity.depths] == ["classifier.fc2", "features.conv3_2", "features.conv1_1"]
    assert checks.evaluations == 10 + 3 * 2
    ((data, media_type),) = store.kept
    assert media_type == "image/png"
    with Image.open(io.BytesIO(data)) as strip:
        assert strip.width > 5 * 104


def test_only_what_is_asked_for_is_done(make):
    checks, store = make(curves=True, curve_steps=3)
    list(checks.steps())
    assert set(checks.fields()) == {"curves"}
    assert store.kept == []


def test_left_at_once_there_is_nothing_to_tell(make):
    checks, _ = make(curves=True, sanity_check={})
    steps = checks.steps()
    next(steps)
    assert "curves" not in checks.fields() or len(checks.fields()["curves"].deletion.scores) < 50
    assert "sanity" not in checks.fields()


def test_left_in_the_middle_the_verdict_is_open(make):
    checks, _ = make(sanity_check={})
    for number, _ in enumerate(checks.steps()):
        if number == 6:
            break
    sanity = checks.fields()["sanity"]
    assert 1 <= len(sanity.depths) < 9
    assert sanity.verdict == "inconclusive"
    assert checks.note == "sanity check"
