"""The sanity check exposes what ignores the network, and passes what does not."""

import numpy as np
import pytest
import torch

from models.attribution import METHODS, Explained, Question, Settings, explain
from models.attribution.attributor import Attributor
from models.attribution.sanity import SanityTest
from models.attribution.sanity_verdict import judge
from models.attribution.strip import Row, diverging, draw_strip, input_picture
from models.catalog import Catalog
from models.classifier import Classifier
from models.loading import load
from models.recipes import stn_canvases, vgg_digits


class Edges(Attributor):
    """Shows where the picture's brightness changes, and asks no network."""

    expected = 1
    has_estimate = True

    def steps(self):
        yield 1, 1

    def best(self):
        down, right = np.gradient(self.question.x_1CHW[0, 0].numpy())
        return Explained(np.hypot(down, right).astype(np.float32), 0)


class Nothing(Edges):
    """A map of zeros."""

    def best(self):
        return Explained(np.zeros(self.question.x_1CHW.shape[2:], np.float32), 0)


@pytest.fixture(scope="module")
def question():
    x_1CHW = vgg_digits.normalised(stn_canvases.examples(1))
    classifier = Classifier(load(Catalog().find("vgg-digits")))
    target = int(classifier(x_1CHW).argmax())
    return Question(classifier, x_1CHW, target, torch.zeros_like(x_1CHW), torch.tensor([-0.6]), torch.tensor([3.4]))


@pytest.fixture
def check(question, monkeypatch):
    monkeypatch.setitem(METHODS, "edges", Edges)
    monkeypatch.setitem(METHODS, "nothing", Nothing)

    def run(method, *, stop_after=None, **options):
        settings = Settings(method, steps=8)
        test = SanityTest(question, settings, explain(question, settings), **options)
        for number, _ in enumerate(test.steps()):
            if number == stop_after:
                break
        return test.best()

    return run


@pytest.mark.parametrize(
    ("method", "verdict"),
    [
        ("saliency", "passes"),
        ("integrated_gradients", "passes"),
        ("grad_cam", "passes"),
        ("guided_backprop", "fails"),
        ("edges", "fails"),
    ],
)
def test_verdicts_on_a_trained_network(check, method, verdict):
    sanity = check(method)
    assert sanity.judgement.verdict == verdict, sanity.judgement.reason
    assert [depth.layer for depth in sanity.depths][::8] == ["classifier.fc2", "features.conv1_1"]
    assert [depth.num_layers for depth in sanity.depths] == list(range(1, 10))


def test_what_ignores_the_network_keeps_all(check):
    sanity = check("edges", max_depths=3)
    assert sanity.judgement.kept == pytest.approx(1)
    assert "Over 3 depths it keeps 100% of the ranks' variance" in sanity.judgement.reason
    assert "4,096 pixels" in sanity.judgement.reason


def test_a_map_of_zeros_is_not_called_sane(check):
    judgement = check("nothing", max_depths=2).judgement
    assert judgement.verdict == "inconclusive"
    assert "one value" in judgement.reason


def test_a_seed_repeats_and_another_differs(check):
    one, same, other = (check("saliency", max_depths=2, seed=seed) for seed in (0, 0, 1))
    assert [depth.similarity for depth in one.depths] == [depth.similarity for depth in same.depths]
    assert [depth.similarity for depth in one.depths] != [depth.similarity for depth in other.depths]


def test_stopped_early_it_tells_the_depths_it_has_and_leaves_the_verdict_open(check):
    sanity = check("guided_backprop", stop_after=4)
    assert 1 <= len(sanity.depths) < 9
    assert sanity.judgement.verdict == "inconclusive"
    assert sanity.judgement.reason.startswith("Stopped before all layers were random.")


def test_progress_rises_to_its_total(question):
    settings = Settings("integrated_gradients", steps=8)
    told = list(SanityTest(question, settings, explain(question, settings), max_depths=3).steps())
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert done[0] == 0
    assert told[-1] == (300, 300)


def test_perturbing_methods_ask_the_random_network_and_keep_the_superpixels(question):
    calls = []

    def forward(x_NCHW):
        calls.append(len(x_NCHW))
        return question.classifier(x_NCHW)

    settings = Settings("lime", samples=64, count=12)
    asked = Question(**{**vars(question), "forward": forward, "memo": {}})
    explained = explain(asked, settings)
    before = len(calls)
    test = SanityTest(asked, settings, explained, max_depths=1)
    list(test.steps())
    assert len(calls) == before
    (depth,) = test.best().depths
    for segment in np.unique(explained.segments_HW):
        assert np.ptp(depth.attribution_HW[explained.segments_HW == segment]) == 0
    assert not np.array_equal(depth.attribution_HW, explained.attribution_HW)


def judged(*signed, absolute=None, num_layers=4):
    """Judge rank correlations of one image, at as many depths."""
    absolute = signed if absolute is None else absolute
    table = np.array([[(one, other, 0.5) for one, other in zip(signed, absolute, strict=True)]])
    depths = range(1, len(signed) + 1)
    names = [f"layer{depth}" for depth in depths]
    return judge(table, layers=names, num_random=list(depths), num_layers=num_layers, num_pixels=100)


@pytest.mark.parametrize(
    ("correlations", "absolute", "verdict"),
    [
        ((0.9, 0.8, 0.7, 0.5), None, "fails"),
        ((0.99, 0.9, 0.8, 0.0), None, "fails"),
        ((0.5, 0.3, 0.1, 0.0), None, "passes"),
        ((0.8, 0.6, 0.6, 0.4), None, "inconclusive"),
        ((0.1, 0.1, 0.1, 0.6), None, "inconclusive"),
        ((0.0, 0.0, 0.0, 0.0), (0.9, 0.9, 0.9, 0.9), "inconclusive"),
        ((-0.9, -0.9, -0.9, -0.9), (0.9, 0.9, 0.9, 0.9), "fails"),
        ((-0.9, -0.9, -0.9, -0.9), None, "passes"),
        ((0.0, 0.0, 0.0), None, "inconclusive"),
    ],
    ids=[
        "alike to the end",
        "alike until the first filters go",
        "falls at once",
        "a part stays",
        "returns at the end",
        "only signs change",
        "signs turned around",
        "a map without signs that shows other places",
        "not all layers random",
    ],
)
def test_the_verdict_follows_from_the_correlations(correlations, absolute, verdict):
    assert judged(*correlations, absolute=absolute).verdict == verdict


def test_over_several_images_chance_cancels_out():
    lone = [judged(*(0.6 * sign for _ in range(4)), absolute=(0.1,) * 4) for sign in (1, -1)]
    assert [each.verdict for each in lone] == ["inconclusive", "inconclusive"]
    table = np.array([[(0.6, 0.1, 0)] * 4, [(-0.6, 0.1, 0)] * 4])
    both = judge(table, layers=["x"] * 4, num_random=[1, 2, 3, 4], num_layers=4, num_pixels=9)
    assert both.verdict == "passes"
    assert "mean of 2 images" in both.reason


def test_a_strip_shows_picture_and_maps_in_their_places(question, check):
    sanity = check("saliency", max_depths=2)
    picture = input_picture(question)
    assert picture.size == (64, 64)
    expected = (stn_canvases.examples(1).pixels[0, 0] * 255).round().numpy()
    assert np.abs(np.asarray(picture)[..., 0] - expected).max() <= 1
    strip = draw_strip(picture, [Row("saliency", sanity)] * 2, cell_px=64, title="title")
    pixels = np.asarray(strip)
    cells = [picture, diverging(sanity.original_HW), *(diverging(depth.attribution_HW) for depth in sanity.depths)]
    left = strip.width - 4 * 69 - 5
    found = [_place(pixels, np.asarray(cell)) for cell in cells]
    assert [x for x, _ in found] == [left, left + 69, left + 138, left + 207]
    assert len({y for _, y in found}) == 1


def _place(pixels, cell):
    """Find a cell's left and top in the strip's first row."""
    height, width = cell.shape[:2]
    return next(
        (x, y)
        for y in range(pixels.shape[0] - height)
        for x in range(pixels.shape[1] - width)
        if np.array_equal(pixels[y, x], cell[0, 0]) and np.array_equal(pixels[y : y + height, x : x + width], cell)
    )


def test_colours_say_the_sign():
    values = np.array([[-1.0, 0, 1]])
    blue, white, red = np.asarray(diverging(values)).astype(int)[0]
    assert blue[2] > blue[0] + 100
    assert red[0] > red[2] + 100
    assert white.min() > 240
