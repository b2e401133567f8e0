"""More workers, for as long as they help."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from visionpipe.errors import WorkerStartError
from workers.benching.crews import crew_rates
from workers.benching.points import CrewRate
from workers.benching.verdict import advise


class Service:
    """A model's workers, on a machine of some cores."""

    def __init__(self, cores: float, *, own: bool = True) -> None:
        self.settings, self.contender, self.own = None, SimpleNamespace(model="m"), own
        self.cores, self.number, self.dismissed = cores, 1, False

    def records(self) -> list[Any]:
        return [SimpleNamespace(usage=SimpleNamespace(cores=self.cores))] * self.number

    def hire(self, number: int, tell: Any) -> None:
        self.number = number

    def dismiss(self) -> None:
        self.dismissed = True


class Asked:
    """Folder runs at a rate by the number of workers; the first with so many is slow."""

    def __init__(self, service: Service, rates: dict[int, float]) -> None:
        self.service, self.rates, self.warm = service, rates, {1}

    def run_folder(self, settings: Any, model: str, images: int) -> Any:
        rate = self.rates[self.service.number] if self.service.number in self.warm else 1.0
        self.warm.add(self.service.number)
        return run(rate, images=images)


def run(rate: float, share: float = 0.5, images: int = 100, failed: int = 0) -> Any:
    return SimpleNamespace(images_per_s=rate, found=images, failed=failed, ceiling=SimpleNamespace(share=share))


@pytest.mark.parametrize(
    ("cores", "rates", "tried", "advised"),
    [
        (2, {1: 100, 2: 150}, [1, 2], 2),
        (16, {1: 100, 2: 190, 4: 300, 8: 310}, [1, 2, 4, 8], 4),
        (16, {1: 100, 2: 105}, [1, 2], 1),
        (3, {1: 100, 2: 180}, [1, 2], 2),
        (1, {1: 100}, [1], None),
    ],
)
def test_workers_are_doubled_while_that_brings_something_and_cores_last(cores, rates, tried, advised):
    service = Service(cores)
    found = crew_rates(Asked(service, rates), service, [run(100)] * 3, None, print, [])
    assert [(one.workers, one.images_per_s) for one in found] == [(number, rates[number]) for number in tried]
    assert advise([], [], None, found).workers == advised


def test_a_machine_that_is_used_up_gets_no_more_workers():
    service = Service(16)
    assert crew_rates(Asked(service, {}), service, [run(90), run(100, share=0.9), run(110)], None, print, []) == [
        CrewRate(workers=1, images_per_s=100)
    ]


def test_no_more_workers_are_tried_than_was_said():
    service = Service(16)
    found = crew_rates(Asked(service, {1: 100, 2: 190, 4: 300}), service, [run(100)], 2, print, [])
    assert [one.workers for one in found] == [1, 2]
    assert [one.workers for one in crew_rates(Asked(service, {}), Service(16), [run(100)], 1, print, [])] == [1]


def test_workers_of_others_are_left_as_they_are():
    service = Service(16, own=False)
    assert crew_rates(Asked(service, {}), service, [run(100)], None, print, []) == []
    assert crew_rates(Asked(service, {}), Service(16), [], None, print, []) == []
    assert advise([], [], None).workers is None


def test_what_was_measured_before_is_not_lost_when_more_workers_fail():
    service, notes = Service(16), []

    def hire(number: int, tell: Any) -> None:
        raise WorkerStartError("no memory left")

    service.hire = hire  # type: ignore[method-assign]
    assert [one.workers for one in crew_rates(Asked(service, {}), service, [run(100)], None, print, notes)] == [1]
    assert notes == ["Folder runs by 2 workers failed: no memory left"]


def test_workers_that_fail_images_are_no_gain():
    service, notes = Service(16), []
    asked = Asked(service, {2: 900})
    asked.run_folder = lambda *_: run(900, failed=7)  # type: ignore[method-assign]
    assert [one.workers for one in crew_rates(asked, service, [run(100)], None, print, notes)] == [1]
    assert notes == ["More images failed in folder runs by 2 workers: 7.0%."]
    assert service.dismissed


def test_a_damaged_picture_fails_as_often_with_any_number_of_workers():
    service, notes = Service(2), []
    asked = Asked(service, {2: 190})
    asked.run_folder = lambda *_: run(190, images=200, failed=2)  # type: ignore[method-assign]
    found = crew_rates(asked, service, [run(100, failed=1)], None, print, notes)
    assert ([one.workers for one in found], notes) == ([1, 2], [])


def test_a_crew_that_lost_somebody_is_not_measured():
    service, notes = Service(2), []
    asked = Asked(service, {})

    def run_folder(*_: Any) -> Any:
        service.number = 1
        return run(300)

    asked.run_folder = run_folder  # type: ignore[method-assign]
    assert [one.workers for one in crew_rates(asked, service, [run(100)], None, print, notes)] == [1]
    assert notes == ["Folder runs by 2 workers failed: only 1 of them were left at the end."]
