from dataclasses import replace

import pytest

from models.cards import Card, Provenance, Quality
from models.catalog import Entry
from models.choosing.candidates import Candidate, field_of
from models.choosing.verdicts import Budget, judge, miss
from models.errors import UnsupportedOption


def entry(name, *qualities, labels=("cat", "dog"), tasks=("classification",)):
    card = Card(
        name=name,
        tasks=list(tasks),
        network="lenet5",
        labels=list(labels),
        licence="CC0-1.0",
        provenance=Provenance(origin="a test"),
        quality=[Quality(metric=metric, value=value, split=split) for metric, value, split in qualities],
    )
    return Entry(card, None, "user")


def candidate(name, quality, gflops, params, latency_ms=None, fault=None):
    return Candidate(entry(name), quality, (224, 224), gflops, params, latency_ms, fault)


FIELD = [
    candidate("huge", 0.90, 20.0, 200e6),
    candidate("wide", 0.853, 5.1, 90e6),
    candidate("good", 0.85, 3.0, 30e6),
    candidate("beaten", 0.84, 3.5, 20e6),
    candidate("small", 0.80, 1.0, 5e6),
    candidate("unknown", 0.70, None, None),
]


def reasons(budget, candidates=FIELD):
    return {one.candidate.name: one.reason for one in judge(candidates, budget, "points")}


def test_the_best_under_a_budget_wins_and_each_neighbour_hears_why_it_lost():
    assert reasons(Budget(gflops=4)) == {
        "huge": "5 points better, but 20 GFLOPs are over the budget of 4",
        "wide": "0.3 points better, but 5.1 GFLOPs are over the budget of 4",
        "good": "chosen: the best that keeps to the budget",
        "beaten": "dominated by good: 1 points better and cheaper (3 against 3.5 GFLOPs)",
        "small": "5 points worse, though cheaper (1 against 3 GFLOPs)",
        "unknown": "15 points worse, and its GFLOPs are not known",
    }


def test_every_limit_that_is_broken_is_named():
    found = reasons(Budget(gflops=4, params=40e6, min_accuracy=0.82))
    assert found["huge"].endswith("20 GFLOPs are over the budget of 4 and 200 M parameters are over the budget of 40")
    assert found["small"] == "5 points worse, and 80.00% is under the 82.00% asked for"
    # Fewer parameters than the better one: nothing dominates it when both costs count.
    assert found["beaten"] == "1 points worse, though cheaper (20 against 30 M parameters)"


def test_without_a_budget_the_best_wins_and_the_front_is_what_nothing_beats():
    verdicts = judge(FIELD, Budget(), "points")
    assert verdicts[0].reason.startswith("chosen")
    assert [one.candidate.name for one in verdicts if one.on_front] == ["huge", "wide", "good", "small"]


def test_of_equals_the_cheaper_one_wins():
    twins = [candidate("dear", 0.8, 2.0, 1e6), candidate("cheap", 0.8, 1.0, 1e6)]
    assert reasons(Budget(), twins) == {
        "dear": "dominated by cheap: as good and cheaper (1 against 2 GFLOPs)",
        "cheap": "chosen: the best that keeps to the budget",
    }


def test_a_latency_budget_needs_measured_latencies():
    timed = [replace(one, latency_ms=ms) for one, ms in zip(FIELD, (90, None, 30, 20, 25, None), strict=True)]
    found = reasons(Budget(latency_ms=50), timed)
    assert found["good"].startswith("chosen")
    assert found["huge"] == "5 points better, but 90 ms are over the budget of 50"
    assert found["wide"] == "0.3 points better, but its latency was not measured here"
    assert found["small"] == "dominated by beaten: 4 points better and cheaper (20 against 25 ms)"


def test_nothing_wins_where_nothing_fits_and_the_nearest_misses_by_least():
    budget = Budget(gflops=0.5, min_accuracy=0.75)
    assert not any(one.fits for one in judge(FIELD, budget, "points"))
    assert min(FIELD, key=lambda one: miss(one, budget)).name == "small"
    assert miss(FIELD[4], budget) == pytest.approx(1.0)
    assert miss(FIELD[5], budget) == float("inf")
    assert miss(candidate("no", 0.9, 0.1, 1, fault="it does not take 8x8 pixels"), budget) == float("inf")


def test_only_models_with_the_same_metric_data_and_labels_are_compared():
    entries = [
        entry("one", ("acc@1", 0.7, "ImageNet, as published"), ("acc@5", 0.9, "ImageNet, as published")),
        entry("two", ("acc@1", 0.8, "ImageNet, measured")),
        entry("other-data", ("acc@1", 0.99, "digits")),
        entry("other-labels", ("acc@1", 0.99, "ImageNet, as published"), labels=("bird",)),
        entry("other-task", ("acc@1", 0.99, "ImageNet"), tasks=("segmentation",)),
    ]
    field = field_of(entries, "classification")
    assert (field.metric, field.data) == ("acc@1", "ImageNet")
    assert [one.name for one in field.candidates] == ["two", "one"]
    assert field_of(entries, "classification", "acc@5").candidates[0].name == "one"
    # What a classifier can be asked besides has no figure of its own.
    assert len(field_of(entries, "explanation").candidates) == 2


def test_a_metric_that_nobody_has_is_told():
    with pytest.raises(UnsupportedOption, match=r"published mIoU, found none among 1. Their metrics: acc@1"):
        field_of([entry("one", ("acc@1", 0.7, "ImageNet"))], "classification", "mIoU")
    with pytest.raises(UnsupportedOption, match=r"published quality, found none among 0"):
        field_of([], "detection")
