"""The images that excite each unit most, found in one pass over a run's answers."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from visionpipe.runs.rows import InputState, Row

UnitKey = tuple[str, int]
"""Layer and channel."""


class Excited(NamedTuple):
    """An image, and how much of what in it excites a unit; the strongest position alone counts."""

    activation: float
    """Above zero."""
    path: bytes
    """Relative to the folder."""
    position_yx: tuple[int, int] | None
    """Row and column of the layer's output."""
    box_xyxy: tuple[float, float, float, float] | None
    """Its receptive field, in pixels of the image."""


class Ranking:
    """Keeps the most exciting images of each unit; memory grows with units and not with images.

    Args:
        top: How many of each.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._heaps: dict[UnitKey, list[tuple[float, int, Excited]]] = {}
        self._seen = 0

    def add(self, path: bytes, units: Iterable[dict[str, object]]) -> None:
        """Take the units of one image into account, as JSON data."""
        self._seen += 1
        for unit in units:
            key = (str(unit["layer"]), int(str(unit["channel"])))
            heap = self._heaps.setdefault(key, [])
            value = unit.get("activation")
            activation = float(value) if isinstance(value, int | float) else 0.0
            # Of equals the first stays: sheets are the same whenever they are made again.
            rank = (activation, -self._seen)
            if activation <= 0 or (len(heap) == self._top and rank < heap[0][:2]):
                continue
            entry = (*rank, Excited(activation, path, _pair(unit.get("position_yx")), _box(unit.get("box_xyxy"))))
            if len(heap) == self._top:
                heapq.heapreplace(heap, entry)
            else:
                heapq.heappush(heap, entry)

    def units(self) -> dict[UnitKey, list[Excited]]:
        """Give each unit's images, the most exciting first; units in the order in which they were asked for."""
        return {key: [entry[2] for entry in sorted(heap, reverse=True)] for key, heap in self._heaps.items()}


def ranked(rows: Iterable[Row], top: int) -> dict[UnitKey, list[Excited]]:
    """Rank the images of a run of method ``activations``.

    Args:
        rows: The ledger's, streamed.
        top: How many of each unit.
    """
    ranking = Ranking(top)
    for row in rows:
        if row.state is InputState.DONE and row.answer:
            ranking.add(row.path, json.loads(row.answer)["result"]["units"])
    return ranking.units()


def by_image(units: dict[UnitKey, list[Excited]]) -> Iterator[tuple[bytes, str, list[tuple[int, Excited]]]]:
    """Say what is to be projected back: for each image and layer the channels."""
    wanted: dict[tuple[bytes, str], list[tuple[int, Excited]]] = {}
    for (layer, channel), images in units.items():
        for image in images:
            wanted.setdefault((image.path, layer), []).append((channel, image))
    for (path, layer), channels in sorted(wanted.items(), key=lambda entry: entry[0]):
        yield path, layer, channels


def _pair(value: object) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if isinstance(value, list) else None


def _box(value: object) -> tuple[float, float, float, float] | None:
    if not isinstance(value, list):
        return None
    left, top, right, bottom = map(float, value)
    return left, top, right, bottom
