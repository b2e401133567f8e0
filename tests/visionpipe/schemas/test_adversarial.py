"""What an attack's result says of itself: which attack it means, and how it writes a radius."""

from __future__ import annotations

import pytest

from tests.helpers.results import adversarial
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import AdversarialResult
from visionpipe.schemas.results.adversarial import epsilon_text


@pytest.fixture
def result() -> AdversarialResult:
    return adversarial((4, 4), lambda data, kind: ArtifactRef(key=f"artifact:{0:064x}", media_type=kind, size_bytes=1))


@pytest.mark.parametrize(
    ("epsilon", "norm", "text"),
    [(8 / 255, "linf", "8/255"), (1.0, "linf", "255/255"), (0.03, "linf", "0.03"), (8 / 255, "l2", "0.03137")],
)
def test_whole_levels_are_written_as_such(epsilon, norm, text):
    assert epsilon_text(epsilon, norm) == text


def test_the_picture_that_is_shown_is_that_of_which_the_summary_speaks(result):
    assert "at epsilon 0.03" in result.summary()
    assert result.shown_artifact() == "attacks.1.picture"
    assert result.shown_artifact() in dict(result.artifacts())


def test_where_nothing_fooled_the_network_the_first_picture_is_shown(result):
    failed = [attack.model_copy(update={"success": False}) for attack in result.attacks]
    withstood = result.with_parts(failed)
    assert withstood.shown_artifact() == "attacks.0.picture"
    assert "withstands" in withstood.summary()
    led = withstood.model_copy(update={"target": result.attacks[0].after})
    assert "is not led to class 2" in led.summary()


def test_a_network_that_was_wrong_at_first_is_said_to_be(result):
    wrong = result.model_copy(update={"before": result.attacks[0].after})
    assert "without any change" in wrong.summary()
