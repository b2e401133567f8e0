"""Ranking a stream of images for each unit."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

from visionpipe.features.ranking import Ranking, by_image, ranked
from visionpipe.runs.rows import InputState, Row


def unit(channel: int, activation: float | None, layer: str = "a") -> dict[str, Any]:
    data = {"layer": layer, "channel": channel, "activation": activation, "position_yx": [1, 2]}
    return {**data, "box_xyxy": [0, 1, 2.5, 4]}


def row(path: bytes, state: InputState, *units: dict[str, Any]) -> Row:
    answer = json.dumps({"result": {"units": units}}) if state is InputState.DONE else None
    return Row(path, 1, state, None, "", answer, 1)


def test_the_strongest_come_first_and_of_equals_the_first_in_order() -> None:
    ranking = Ranking(3)
    for index, activation in enumerate([1.0, 5.0, 2.0, 5.0, 2.0, 0.5, 2.0]):
        ranking.add(b"%d" % index, [unit(0, activation)])
    (images,) = ranking.units().values()
    assert [(image.activation, image.path) for image in images] == [(5.0, b"1"), (5.0, b"3"), (2.0, b"2")]
    assert (images[0].position_yx, images[0].box_xyxy) == ((1, 2), (0, 1, 2.5, 4))


def test_what_does_not_excite_a_unit_is_not_among_its_images_but_the_unit_is_told() -> None:
    ranking = Ranking(3)
    ranking.add(b"x", [unit(0, 0.0), unit(1, -2.0), unit(2, None), unit(3, 1.0)])
    assert {key: len(images) for key, images in ranking.units().items()} == {
        ("a", 0): 0, ("a", 1): 0, ("a", 2): 0, ("a", 3): 1,
    }  # fmt: skip


def test_only_what_was_answered_counts() -> None:
    rows = [
        row(b"a", InputState.FAILED),
        row(b"b", InputState.DONE, unit(4, 1.0, "one"), unit(4, 3.0, "two")),
        row(b"c", InputState.SKIPPED),
        row(b"d", InputState.DONE, unit(4, 2.0, "one"), unit(4, 1.0, "two")),
    ]
    units = ranked(rows, 9)
    assert {key: [image.path for image in images] for key, images in units.items()} == {
        ("one", 4): [b"d", b"b"],
        ("two", 4): [b"b", b"d"],
    }


def test_an_image_is_asked_once_for_all_channels_of_a_layer() -> None:
    ranking = Ranking(2)
    ranking.add(b"x", [unit(0, 1.0), unit(5, 2.0), unit(0, 3.0, "b")])
    ranking.add(b"y", [unit(0, 4.0), unit(5, 0.0), unit(0, 0.0, "b")])
    wanted = [
        (path, layer, [channel for channel, _ in channels]) for path, layer, channels in by_image(ranking.units())
    ]
    assert wanted == [(b"x", "a", [0, 5]), (b"x", "b", [0]), (b"y", "a", [0])]


def test_memory_does_not_grow_with_the_number_of_images_and_sorting_all_gives_the_same() -> None:
    draw = random.Random(1)
    values = [draw.random() for _ in range(20_000)]

    def grown(number: int) -> int:
        ranking = Ranking(9)
        tracemalloc.start()
        for index, value in enumerate(values[:number]):
            ranking.add(b"%d" % index, [unit(0, value)])
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        (images,) = ranking.units().values()
        assert [image.activation for image in images] == sorted(values[:number], reverse=True)[:9]
        return size

    grown(10)
    assert grown(20_000) < 2 * grown(200) + 2000
