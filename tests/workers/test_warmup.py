"""What the warm-up settles."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers import warmup
from workers.batching import Batcher
from workers.classification import ClassificationRuntime
from workers.device import Device
from workers.hosted import Answering, HostedModel


class Timed(ClassificationRuntime):
    """Takes a fixed time for a batch and some for each image."""

    def __init__(self, hosted: HostedModel, fixed_s: float, each_s: float) -> None:
        super().__init__(hosted)
        self.fixed_s, self.each_s = fixed_s, each_s

    def warm_up(self, num_images: int) -> None:
        time.sleep(self.fixed_s + num_images * self.each_s)


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "expected"),
    [(0.0, 0.0, 16), (0.02, 0.0, 16), (0.0, 0.004, 8), (0.2, 0.0, 4)],
    ids=["fast", "a_fixed_cost_is_shared", "as_many_as_fit", "never_below_four"],
)
def test_a_step_takes_no_longer_than_interactive_work_can_wait(
    hosted: HostedModel, monkeypatch: pytest.MonkeyPatch, fixed_s: float, each_s: float, expected: int
) -> None:
    monkeypatch.setattr(warmup, "TARGET_STEP_S", 0.05)
    runtimes: Any = {"classification": Timed(hosted, fixed_s, each_s)}
    assert warmup.warm_up(hosted, runtimes, None) == expected


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "expected"),
    [(0.0, 0.0, [8, 12]), (0.0, 0.02, [8, 8, 8, 8]), (0.5, 0.0, [4, 4, 4])],
    ids=["as_far_as_the_card_says", "as_far_as_it_suits", "not_at_all"],
)
def test_larger_batches_are_tried_one_step_at_a_time(
    hosted: HostedModel, monkeypatch: pytest.MonkeyPatch, fixed_s: float, each_s: float, expected: list[int]
) -> None:
    monkeypatch.setattr(warmup, "TARGET_STEP_S", 0.23)
    assert list(warmup.larger_batches(Timed(hosted, fixed_s, each_s), 4, 12)) == expected


class Sized(Timed):
    """Has memory for so many images."""

    def warm_up(self, num_images: int) -> None:
        if num_images > 8:
            raise torch.OutOfMemoryError("no memory")


def test_a_network_that_became_faster_gets_larger_batches_where_all_its_inputs_are(
    hosted: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, tasks = (1, 8, 8), ["classification", "long", "other", "any"]
    monkeypatch.setattr(HostedModel, "input_shape", shape)
    runtimes: Any = {task: Timed(hosted, 0, 0) for task in tasks}
    runtimes["long"].is_long = True
    runtimes["other"] = Elsewhere(hosted, 0, 0)
    runtimes["any"].has_fixed_shape = False
    hooks: Any = SimpleNamespace(finished=None)
    batcher = Batcher(runtimes, hooks, max_batch=4)
    assert list(warmup.enlarge(hosted, batcher, tasks, (1, 9, 9))) == []
    assert list(warmup.enlarge(hosted, batcher, tasks, shape)) == [8, 16]
    assert [batcher.limits.of(task) for task in tasks] == [16, 1, 4, 4]
    assert batcher.limits.largest == 16
    # What the memory did not suffice for is not tried again.
    batcher.limits.ran_out_of_memory("classification", 16)
    assert list(warmup.enlarge(hosted, batcher, tasks, shape)) == []
    assert [batcher.limits.of(task) for task in tasks] == [8, 1, 4, 4]
    batcher.limits.ran_out_of_memory("classification", 4)
    assert list(warmup.enlarge(hosted, batcher, tasks, shape)) == []
    assert [batcher.limits.of(task) for task in tasks] == [2, 1, 4, 4]


def test_a_batch_for_which_the_memory_does_not_suffice_is_not_taken(hosted: HostedModel) -> None:
    assert list(warmup.larger_batches(Sized(hosted, 0, 0), 4, 64)) == [8, 8, 8, 8]


class Elsewhere(Timed):
    """Answers with a part of the network."""

    @property
    def answering(self) -> Answering:
        return Answering(torch.nn.Identity())


def test_a_batch_size_that_was_asked_for_is_kept(hosted: HostedModel) -> None:
    assert warmup.warm_up(hosted, {"classification": Timed(hosted, 0, 0)}, 7) == 7


def test_the_expected_rate_is_that_of_the_slowest_task(hosted: HostedModel) -> None:
    runtimes: Any = {"fast": Timed(hosted, 0.001, 0), "slow": Timed(hosted, 0.05, 0)}
    assert 8 / 0.08 < warmup.expected_rate(runtimes, 8) <= 8 / 0.05


def test_long_work_says_nothing_of_the_rate(hosted: HostedModel) -> None:
    runtimes: Any = {"quick": Timed(hosted, 0.02, 0), "long": Timed(hosted, 0.5, 0)}
    runtimes["long"].is_long = True
    assert warmup.expected_rate(runtimes, 8) > 8 / 0.1


class Small(Timed):
    """Has memory for so many images in each precision; fp32 is slow enough for the reduced one to pay."""

    def __init__(self, hosted: HostedModel, **most: int) -> None:
        super().__init__(hosted, 0.0, 0.0)
        self.most = most
        self.ran: list[tuple[str, int]] = []

    def warm_up(self, num_images: int) -> None:
        precision = self.hosted.device.precision
        self.ran.append((precision, num_images))
        if num_images > self.most[precision]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        time.sleep(0.01 if precision == "fp32" else 0.001)


def device(precision: str) -> Device:
    return Device(torch.device("cpu"), precision)


@pytest.mark.parametrize(
    ("max_batch", "most", "sizes", "chosen"),
    [
        (None, {"bf16": 99, "fp32": 99}, {16}, "bf16"),
        (6, {"bf16": 6, "fp32": 6}, {6}, "bf16"),
        (64, {"bf16": 99, "fp32": 99}, {16}, "bf16"),
        (None, {"bf16": 16, "fp32": 5}, {16, 8, 4}, "bf16"),
        (None, {"bf16": 3, "fp32": 3}, {16, 8, 4, 2}, "bf16"),
        (None, {"bf16": 1, "fp32": 0}, {16, 8, 4, 2, 1}, "bf16"),
    ],
    ids=["the_card's", "as_asked", "never_more_than_the_card's", "less_memory", "hardly_any", "too_little_for_fp32"],
)
def test_no_want_of_memory_keeps_precisions_from_being_compared(
    hosted: HostedModel, monkeypatch: pytest.MonkeyPatch, max_batch: int | None, most: Any, sizes: set[int], chosen: str
) -> None:
    monkeypatch.setattr(hosted, "cuda", object())
    monkeypatch.setattr(hosted, "set_precision", lambda name: monkeypatch.setattr(hosted, "device", device(name)))
    hosted.set_precision("bf16")
    runtime = Small(hosted, **most)
    warmup.keep_fp32_unless_slower(hosted, {"classification": runtime}, max_batch)
    # Both are compared at the same, largest size for which there is memory.
    assert {number for _, number in runtime.ran} == sizes
    assert {runtime.ran[-1], runtime.ran[0]} == {("fp32", min(sizes)), ("bf16", max(sizes))}
    assert hosted.device.precision == chosen


class Unable(ClassificationRuntime):
    """Cannot do its task with this network."""

    def warm_up(self, num_images: int) -> None:
        raise ArithmeticError("no gradient here")


def test_a_task_that_is_only_implied_is_left_out_where_the_network_cannot_do_it(
    hosted: HostedModel, caplog: pytest.LogCaptureFixture
) -> None:
    runtimes: Any = {"classification": Timed(hosted, 0, 0), "explanation": Unable(hosted)}
    with caplog.at_level("WARNING", logger="visionpipe"):
        warmup.warm_up(hosted, runtimes, 4)
    assert list(runtimes) == ["classification"]
    assert "does not serve explanation: no gradient here" in caplog.text


def test_a_task_that_the_card_names_must_work(hosted: HostedModel) -> None:
    with pytest.raises(ArithmeticError):
        warmup.warm_up(hosted, {"classification": Unable(hosted)}, 4)


HEAVY = ["captum", "matplotlib", "skimage", "sklearn", "supervision", "sympy"]
"""Each takes a second or so to import, and tens of megabytes."""
STARTS = """
import sys
from visionpipe.settings import Settings
from workers.host import HostOptions, load_model
from workers.warmup import warm_up

hosted, runtimes = load_model(HostOptions(sys.argv[1], "", device="cpu", precision="fp32"), Settings())
warm_up(hosted, runtimes, None)
print(*sorted(runtimes), "|", *sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ["lenet-digits", "vgg-digits"])
def test_a_start_imports_nothing_that_only_some_requests_need(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTS, name, *HEAVY], capture_output=True, text=True, check=True)
    tasks, _, imported = done.stdout.partition("|")
    assert {"adversarial", "classification", "explanation", "feature_visualization"} <= set(tasks.split())
    assert imported.split() == []
