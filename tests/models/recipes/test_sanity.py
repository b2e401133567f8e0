"""The recipe of the sanity figure: its tables on the bundled network, and the figure that is kept."""

import pytest
from PIL import Image

from models.auditing.subject import Subject
from models.catalog import Catalog
from models.recipes import sanity, stn_canvases


@pytest.fixture(scope="module")
def subject():
    return Subject.open(Catalog().find("vgg-digits"), "cpu")


@pytest.fixture(scope="module")
def canvases():
    return [Image.fromarray(levels) for levels in stn_canvases.examples(2).levels()]


def test_verdicts_differ_as_the_paper_says(subject, canvases):
    summaries, figures = sanity.audit(subject, canvases, print)
    verdicts = {summary.method: summary.judgement.verdict for summary in summaries}
    assert verdicts == {
        "saliency": "passes",
        "integrated_gradients": "passes",
        "grad_cam": "passes",
        "guided_backprop": "fails",
    }
    assert len(figures) == 2 * 4
    assert all(len(one.depths) == 9 for one in figures)


def test_the_figure_fits_a_page(subject, canvases):
    drawn = sanity._strip(subject, canvases[0])
    assert 800 < drawn.width <= 900
    with Image.open(sanity.FIGURE) as kept:
        assert kept.width <= 900
        assert kept.height > 2 * 4 * sanity.FIGURE_CELL_PX
    assert sanity.FIGURE.stat().st_size <= 300_000
