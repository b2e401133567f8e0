"""The batcher and the engine around it, on a real Redis."""

from __future__ import annotations

import itertools
import math
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState, Lane, Progress
from workers import batching
from workers.batching import Batcher
from workers.limits import Limits
from workers.longwork import LONG_EVERY
from workers.threads import FATAL_EXIT
from workers.yielding import ASIDE_S, LIVELY_S, RightOfWay

RAISES, NOT_A_NUMBER, EXITS = 255, 254, 253


def until(condition: Any) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def hold(rig: Any) -> str:
    """Keep the device busy with one image until the gate opens."""
    rig.watched.gate.clear()
    job = rig.submit([1])
    until(lambda: rig.watched.batches)
    return str(job)


def ready(rig: Any, number: int) -> None:
    """Wait until so many images wait for the device."""
    until(lambda: sum(map(rig.engine.batcher._ready.count, Lane)) == number)


def test_a_lone_image_is_answered_without_waiting_for_company(rig: Any) -> None:
    rig.answers(rig.submit([7]))
    started = time.monotonic()
    assert rig.answers(rig.submit([9])) == [9]
    assert time.monotonic() - started < 0.5
    assert [len(batch) for batch in rig.watched.batches] == [1, 1]


def test_what_arrives_while_the_device_is_busy_shares_a_batch(rig: Any) -> None:
    first = hold(rig)
    jobs = [rig.submit([level]) for level in (10, 20, 30)]
    ready(rig, 3)
    rig.watched.gate.set()
    assert [rig.answers(job) for job in (first, *jobs)] == [[1], [10], [20], [30]]
    assert [len(batch) for batch in rig.watched.batches] == [1, 3]


def test_interactive_overtakes_bulk_at_the_next_micro_batch(rig: Any) -> None:
    bulk = rig.submit(list(range(100)), lane=Lane.BULK, accept=False)
    hold(rig)
    rig.engine.accept(bulk)
    ready(rig, 100)
    urgent = rig.submit([42])
    ready(rig, 101)
    rig.watched.gate.set()
    assert rig.answers(urgent) == [42]
    assert rig.answers(bulk) == list(range(100))
    assert rig.watched.batches[1] == [(urgent, 0)]


def test_a_task_for_which_larger_batches_suit_gets_them_and_others_do_not(rig: Any) -> None:
    batcher = rig.engine.batcher
    batcher.limits.enlarge("classification", 48)
    assert (batcher.limits.of("classification"), batcher.limits.of("explanation")) == (48, 1)
    bulk = rig.submit(list(range(100)), lane=Lane.BULK, accept=False)
    first = hold(rig)
    rig.engine.accept(bulk)
    ready(rig, 100)
    rig.watched.gate.set()
    assert rig.answers(first) == [1]
    assert rig.answers(bulk) == list(range(100))
    assert [len(batch) for batch in rig.watched.batches] == [1, 48, 48, 4]


def test_a_spare_reader_joins_a_hungry_device_once_the_others_no_longer_suffice(rig: Any) -> None:
    suffices, joined = threading.Event(), threading.Event()
    suffices.set()

    def spare() -> None:
        rig.engine.batcher.wait_until_hungry(suffices.is_set)
        joined.set()

    threading.Thread(target=spare, daemon=True).start()
    assert not joined.wait(0.3)
    # Nobody tells it.
    suffices.clear()
    assert joined.wait(15)


def test_inputs_of_different_shapes_never_share_a_batch(rig: Any) -> None:
    hold(rig)
    job = rig.submit([1, 2, 3, 4], sizes=[(4, 4), (5, 4), (4, 4), (5, 4)])
    ready(rig, 4)
    rig.watched.gate.set()
    assert rig.answers(job) == [1, 2, 3, 4]
    assert [sorted(index for _, index in batch) for batch in rig.watched.batches[1:]] in (
        [[0, 2], [1, 3]],
        [[1, 3], [0, 2]],
    )


def test_a_batch_holds_at_most_max_batch_images(make_rig: Any) -> None:
    rig = make_rig(max_batch=3)
    hold(rig)
    job = rig.submit(list(range(7)))
    ready(rig, 7)
    rig.watched.gate.set()
    assert rig.answers(job) == list(range(7))
    assert [len(batch) for batch in rig.watched.batches[1:]] == [3, 3, 1]


def test_a_batch_holds_at_most_so_many_values(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.ready.MAX_BATCH_VALUES", 40)
    hold(rig)
    job = rig.submit([5, 6, 7])
    ready(rig, 3)
    rig.watched.gate.set()
    assert rig.answers(job) == [5, 6, 7]
    assert [len(batch) for batch in rig.watched.batches[1:]] == [2, 1]


def test_a_batch_that_is_full_by_values_waits_for_no_more(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.ready.MAX_BATCH_VALUES", 32)
    monkeypatch.setattr(batching, "GATHER_S", 60)
    prepare, gate = rig.watched.prepare, threading.Event()

    def slow(work: Any) -> None:
        if work.index == 2:
            assert gate.wait(20)
        prepare(work)

    rig.watched.prepare = slow
    job = rig.submit([5, 6, 7], lane=Lane.BULK)
    until(lambda: [len(batch) for batch in rig.watched.batches] == [2])
    gate.set()
    assert rig.answers(job) == [5, 6, 7]


def test_nothing_of_the_last_batch_is_kept(rig: Any) -> None:
    inputs: list[weakref.ref[Any]] = []
    prepare = rig.watched.prepare

    def noted(work: Any) -> None:
        prepare(work)
        inputs.append(weakref.ref(work.prepared))

    rig.watched.prepare = noted
    rig.answers(rig.submit(list(range(8)), lane=Lane.BULK))
    assert len(inputs) == 8
    until(lambda: not [tensor for tensor in inputs if tensor() is not None])


def test_decoded_images_wait_outside_when_enough_are_ready(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_READY_VALUES", 40)
    hold(rig)
    job = rig.submit(list(range(30)), lane=Lane.BULK)
    ready(rig, 3)
    time.sleep(0.1)
    assert rig.engine.batcher._ready.count(Lane.BULK) == 3
    urgent = rig.submit([99])
    rig.watched.gate.set()
    assert rig.answers(urgent) == [99]
    assert rig.answers(job) == list(range(30))


@pytest.mark.parametrize("guilty", [RAISES, NOT_A_NUMBER, EXITS], ids=["raises", "not_a_number", "exits"])
def test_of_a_failing_batch_only_the_guilty_image_errs(rig: Any, guilty: int) -> None:
    hold(rig)
    job = rig.submit([1, 2, 3, guilty, 5, 6, 7])
    ready(rig, 7)
    rig.watched.gate.set()
    assert rig.answers(job) == [1, 2, 3, "internal_error", 5, 6, 7]
    assert rig.envelope(job).record.state is JobState.DONE


def test_a_batch_that_runs_out_of_memory_is_halved_and_the_size_remembered(rig: Any) -> None:
    rig.watched.room = 4
    hold(rig)
    job = rig.submit(list(range(16)))
    ready(rig, 16)
    rig.watched.gate.set()
    assert rig.answers(job) == list(range(16))
    assert rig.engine.batcher.limits.of("classification") == 4
    assert rig.engine.batcher.limits.ceiling("explanation") > 16
    assert [len(batch) for batch in rig.watched.batches[1:]] == [16, 8, 4, 4, 8, 4, 4]
    assert rig.answers(rig.submit(list(range(8)))) == list(range(8))
    assert max(len(batch) for batch in rig.watched.batches[8:]) <= 4


def test_an_image_for_which_the_memory_never_suffices_errs_alone(rig: Any) -> None:
    rig.watched.room = 0
    assert rig.answers(rig.submit([3])) == ["out_of_memory"]
    rig.watched.room = 10
    assert rig.answers(rig.submit([3])) == [3]


def test_an_image_that_cannot_be_decoded_errs_alone(rig: Any) -> None:
    job = rig.submit([1, 2, 3], accept=False)
    rig.redis.set(f"vp:blob:{job}:1", b"\x89PNG" + bytes(rig.redis.strlen(f"vp:blob:{job}:1") - 4))
    rig.engine.accept(job)
    first, second, third = rig.answers(job)
    assert (first, third) == (1, 3)
    assert second in ("invalid_image", "unsupported_image")


def test_pixels_that_are_gone_are_told_apart_from_broken_ones(rig: Any) -> None:
    job = rig.submit([1, 2], accept=False)
    rig.redis.delete(f"vp:blob:{job}:0")
    rig.engine.accept(job)
    assert rig.answers(job) == ["image_expired", 2]


def test_a_ticket_for_a_job_that_is_not_queued_is_dropped(rig: Any) -> None:
    job = rig.submit([1])
    rig.engine.accept(job)
    rig.engine.accept("no-such-job")
    assert rig.answers(job) == [1]
    assert len(rig.watched.batches) == 1
    assert rig.window.held == 0


def test_a_task_that_the_model_cannot_do_fails_the_job(rig: Any) -> None:
    record = rig.ended(rig.submit([1], task="embedding")).record
    assert record.state is JobState.FAILED
    assert record.error.code == "unsupported_task"
    assert "classification" in record.error.message


def test_items_name_their_images_and_their_times(rig: Any) -> None:
    text = rig.ended(rig.submit([1])).items[0].decode()
    assert '"name":"n0"' in text
    for stage in ("fetch_ms", "decode_ms", "preprocess_ms", "batch_wait_ms", "forward_ms", "postprocess_ms"):
        assert f'"{stage}"' in text


def test_suspects_run_alone_marked_and_in_order(rig: Any) -> None:
    job = submit_suspect(rig, [1, 2, 3])
    rig.watched.gate.clear()
    rig.engine.accept(job)
    until(lambda: rig.watched.batches)
    assert rig.redis.hget(f"vp:job:{job}", "mark") == b"0"
    rig.watched.gate.set()
    assert rig.answers(job) == [1, 2, 3]
    assert rig.watched.batches == [[(job, 0)], [(job, 1)], [(job, 2)]]


def test_long_suspects_are_marked_one_after_the_other(rig: Any) -> None:
    job = rig.submit([5, 6], task="explanation", accept=False)
    run(rig.redis, calls.claim(job, "dead", "t0", rig.hosted.info, rig.settings))
    run(rig.redis, calls.expire_worker("dead", rig.settings))
    rig.long.pause_s = 0.05
    rig.engine.accept(job)
    until(lambda: rig.long.trace)
    assert rig.redis.hget(f"vp:job:{job}", "mark") == b"0"
    assert rig.answers(job) == [5, 6]


def test_long_work_reports_progress_but_does_not_flood_redis(rig: Any) -> None:
    rig.long.pause_s = 0.01
    job = rig.submit([120], task="explanation")
    seen = set()
    while not (record := rig.envelope(job).record).state.ended:
        seen.add(record.progress.done if record.progress else 0)
        time.sleep(0.005)
    assert 2 <= len(seen) <= 12
    assert rig.answers(job) == [120]


def test_long_work_and_bulk_share_the_device(rig: Any) -> None:
    hold(rig)
    long = rig.submit([20], task="explanation", lane=Lane.BULK)
    bulk = rig.submit(list(range(200)), lane=Lane.BULK)
    ready(rig, 200)
    rig.long.clock = lambda: len(rig.watched.batches)
    rig.watched.gate.set()
    assert rig.answers(bulk) == list(range(200))
    assert rig.answers(long) == [20]
    batches = len(rig.watched.batches)
    assert batches == 1 + math.ceil(200 / 16)
    assert sum(tick < batches for tick in rig.long.ticks) == batches // LONG_EVERY[Lane.BULK]


def test_interactive_work_waits_for_at_most_one_step_of_long_work(rig: Any) -> None:
    rig.long.pause_s = 0.02
    long = rig.submit([200], task="explanation")
    until(lambda: rig.long.trace)
    waits = []
    for level in range(10):
        started = time.monotonic()
        assert rig.answers(rig.submit([level])) == [level]
        waits.append(time.monotonic() - started)
    assert sorted(waits)[5] < 0.2
    assert not rig.envelope(long).record.state.ended
    run(rig.redis, calls.cancel(long))
    rig.engine.held()[0].stopped = JobState.CANCELLED


def test_long_jobs_take_turns_and_a_few_are_under_way_at_once(rig: Any) -> None:
    rig.watched.gate.clear()
    rig.submit([1])
    jobs = [rig.submit([10], task="explanation") for _ in range(6)]
    waiting = rig.engine.batcher._long.queue._waiting[Lane.INTERACTIVE]
    until(lambda: len(waiting) == 6)
    # Two decode threads may hand over neighbours in either order.
    order = [long.work.job.claim.job for long in waiting]
    rig.watched.gate.set()
    assert [rig.answers(job) for job in jobs] == [[10]] * 6
    assert set(rig.long.trace[:4]) == set(order[:4])
    longest = max(len(list(run_of)) for _, run_of in itertools.groupby(rig.long.trace[:40]))
    assert longest == 1


def test_a_cancelled_long_job_hands_over_its_best(rig: Any) -> None:
    rig.keeper.start()
    rig.long.pause_s = 0.01
    job = rig.submit([250], task="explanation")
    until(lambda: len(rig.long.trace) > 3)
    run(rig.redis, calls.cancel(job))
    envelope = rig.ended(job, 5)
    assert envelope.record.state is JobState.DONE
    assert b'"partial":true' in envelope.items[0]
    assert len(rig.long.trace) < 200


def test_a_long_job_past_its_deadline_hands_over_its_best(rig: Any) -> None:
    rig.keeper.start()
    rig.long.pause_s = 0.02
    job = rig.submit([250], task="explanation", deadline_s=0.5)
    envelope = rig.ended(job, 5)
    assert b'"partial":true' in envelope.items[0]


def test_long_work_that_has_not_begun_is_dropped_at_once_when_cancelled(rig: Any) -> None:
    rig.keeper.start()
    rig.long.pause_s = 0.02
    jobs = [rig.submit([250], task="explanation") for _ in range(6)]
    until(lambda: len(rig.long.trace) > 8)
    run(rig.redis, calls.cancel(jobs[5]))
    assert rig.ended(jobs[5], 3).record.state is JobState.CANCELLED
    assert jobs[5] not in rig.long.trace
    for job in jobs:
        run(rig.redis, calls.cancel(job))


def test_long_work_that_raises_errs_alone(rig: Any) -> None:
    rig.long.pause_s = 0
    bad, good = rig.submit([RAISES], task="explanation"), rig.submit([100], task="explanation")
    assert rig.answers(bad) == ["internal_error"]
    assert rig.answers(good) == [100]


def test_long_work_counts_for_more_in_the_window(rig: Any) -> None:
    rig.watched.gate.clear()
    rig.submit([1])
    for _ in range(2):
        assert rig.window.open_lanes([Lane.BULK])
        rig.submit([3], task="explanation", lane=Lane.BULK)
    assert not rig.window.open_lanes([Lane.BULK])
    assert rig.window.open_lanes([Lane.INTERACTIVE])
    rig.watched.gate.set()
    until(lambda: rig.window.held == 0 and rig.window.open_lanes([Lane.BULK]))


def test_a_device_step_that_brings_the_thread_down_ends_the_process(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    exits: list[int] = []
    ended = threading.Event()

    def exit_now(status: int) -> None:
        exits.append(status)
        ended.set()

    monkeypatch.setattr("workers.threads.os._exit", exit_now)
    told = Mock()
    monkeypatch.setattr("workers.threads.logger", told)

    def broken(batch: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(rig.watched, "forward", broken)
    rig.submit([1])
    assert ended.wait(5)
    assert exits == [FATAL_EXIT]
    told.critical.assert_called_once()
    rig.engine._held.clear()


OUTCOMES = st.sampled_from([*range(0, 250, 7), RAISES, NOT_A_NUMBER])
SIZES = st.sampled_from([(4, 4), (5, 3), (2, 2)])
MAX_JOBS = 6
JOBS = st.lists(
    st.tuples(st.lists(st.tuples(OUTCOMES, SIZES), min_size=1, max_size=9), st.sampled_from(list(Lane)), st.booleans()),
    min_size=1,
    max_size=MAX_JOBS,
)


@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(jobs=JOBS, room=st.sampled_from([1, 3, 10_000]), order=st.permutations(range(MAX_JOBS)))
def test_each_image_gets_its_own_answer_and_just_one(rig: Any, jobs: Any, room: int, order: list[int]) -> None:
    rig.watched.room, rig.watched.batches, rig.engine.batcher.limits = room, [], Limits(rig.engine.batcher.runtimes, 16)
    submitted = []
    for images, lane, is_long in jobs:
        levels, sizes = [level for level, _ in images], [size for _, size in images]
        is_long = is_long and max(levels) < 100
        task = "explanation" if is_long else "classification"
        submitted.append((rig.submit(levels, sizes=sizes, lane=lane, task=task, accept=False), levels))
    for index in order:
        if index < len(submitted):
            rig.engine.accept(submitted[index][0])
    for job, levels in submitted:
        expected = [level if level < 250 else "internal_error" for level in levels]
        assert rig.answers(job) == expected
    until(lambda: rig.window.held == 0 and not rig.engine.held())
    assert [rig.engine.batcher._ready.values(lane) for lane in Lane] == [0, 0]
    books = run(rig.redis, calls.accounts())["grey"]
    assert books.open == 0


def submit_suspect(rig: Any, levels: list[int]) -> str:
    """Submit a job whose first worker died."""
    job: str = rig.submit(levels, accept=False)
    run(rig.redis, calls.claim(job, "dead", "t0", rig.hosted.info, rig.settings))
    run(rig.redis, calls.expire_worker("dead", rig.settings))
    return job


def test_suspects_of_two_jobs_never_overlap(rig: Any) -> None:
    rig.watched.gate.clear()
    jobs = [submit_suspect(rig, [level]) for level in (10, 20)]
    for job in jobs:
        rig.engine.accept(job)
    until(lambda: rig.watched.batches)
    time.sleep(0.2)
    assert [rig.redis.hget(f"vp:job:{job}", "mark") for job in jobs] == [b"0", None]
    rig.watched.gate.set()
    assert [rig.answers(job) for job in jobs] == [[10], [20]]


def test_a_worker_is_lively_while_quick_work_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    way, now = RightOfWay(), 100.0
    monkeypatch.setattr("workers.yielding.time.monotonic", lambda: now)
    assert not way.is_lively
    way.enter(Lane.BULK, 1)
    assert not way.is_lively
    way.enter(Lane.INTERACTIVE, 1)
    assert way.is_lively
    way.leave(Lane.INTERACTIVE)
    now += LIVELY_S - 0.1
    assert way.is_lively
    now += 0.2
    assert not way.is_lively


def test_other_work_steps_aside_for_interactive_work_but_not_for_long() -> None:
    way = RightOfWay()
    way.enter(Lane.BULK, 3)
    way.enter(Lane.INTERACTIVE, 2)
    way.leave(Lane.INTERACTIVE)
    started = time.monotonic()
    way.step_aside(Lane.INTERACTIVE, quick=True)
    assert time.monotonic() - started < ASIDE_S
    way.step_aside(Lane.INTERACTIVE, quick=False)
    assert time.monotonic() - started >= ASIDE_S
    threading.Timer(0.005, way.leave, [Lane.INTERACTIVE]).start()
    way.step_aside(Lane.BULK, quick=True)
    started = time.monotonic()
    way.step_aside(Lane.BULK, quick=True)
    assert time.monotonic() - started < ASIDE_S


def test_a_bulk_batch_is_filled_while_more_of_it_is_on_its_way(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = rig.watched.prepare

    def slow(work: Any) -> None:
        time.sleep(0.004)
        prepare(work)

    monkeypatch.setattr(rig.watched, "prepare", slow)
    rig.watched.batches, rig.engine.batcher.limits = [], Limits(rig.engine.batcher.runtimes, 8)
    job = rig.submit([1 + level for level in range(32)], lane=Lane.BULK)
    assert rig.answers(job) == [1 + level for level in range(32)]
    assert len(rig.watched.batches) <= 6
    assert set(rig.engine.batcher._coming.values()) == {0}


def test_what_does_not_come_is_not_waited_for_long(rig: Any) -> None:
    rig.engine.batcher.expect(Lane.BULK, 5)
    started = time.monotonic()
    assert rig.answers(rig.submit([3], lane=Lane.BULK)) == [3]
    assert time.monotonic() - started < 2
    rig.engine.batcher.expect(Lane.BULK, -5)


def test_bulk_work_does_not_stand_aside_for_long_work(rig: Any) -> None:
    rig.long.pause_s = 0.05
    long = rig.submit([200], task="explanation")
    until(lambda: rig.long.trace)
    started = time.monotonic()
    bulk = rig.submit([1] * 100, lane=Lane.BULK)
    assert rig.answers(bulk) == [1] * 100
    assert not rig.envelope(long).record.state.ended
    # Two decode threads that stood aside before each of 100 images would need a second and a half for that alone.
    assert time.monotonic() - started < 50 * ASIDE_S
    rig.engine.held()[0].stopped = JobState.CANCELLED


def test_a_step_for_which_the_memory_does_not_suffice_lets_go_of_it(rig: Any, monkeypatch: Any) -> None:
    def steps(work: Any) -> Any:
        yield Progress(done=1, total=2)
        raise torch.OutOfMemoryError("CUDA out of memory")

    freed: list[Any] = []
    monkeypatch.setattr(rig.long, "steps", steps)
    monkeypatch.setattr("workers.longwork.traceback.clear_frames", lambda frames: freed.append(frames is not None))
    monkeypatch.setattr("workers.longwork.free_memory", freed.append)
    assert rig.answers(rig.submit([1], task="explanation")) == ["out_of_memory"]
    assert freed == [True, torch.device("cpu")]


def test_a_suspect_that_is_fetched_slowly_keeps_nobody_waiting(rig: Any, monkeypatch: Any) -> None:
    job = rig.submit([1], lane=Lane.BULK, accept=False)
    run(rig.redis, calls.claim(job, "dead", "t0", rig.hosted.info, rig.settings))
    run(rig.redis, calls.expire_worker("dead", rig.settings))
    fetch, arrives, asked = rig.engine._reader.fetch, threading.Event(), threading.Event()

    def slowly(work: Any, *more: Any) -> bytes:
        if work.job.suspect:
            asked.set()
            assert arrives.wait(20)
        return bytes(fetch(work, *more))

    monkeypatch.setattr(rig.engine._reader, "fetch", slowly)
    rig.engine.accept(job)
    assert asked.wait(20)
    assert rig.answers(rig.submit([7])) == [7]
    assert rig.envelope(job).record.state is JobState.RUNNING
    arrives.set()
    assert rig.answers(job) == [1]


def test_the_device_thread_takes_work_once_it_has_run_every_task(rig: Any) -> None:
    goes_on = threading.Event()
    slow: Any = {"classification": SimpleNamespace(warm_up=lambda _: goes_on.wait(20), is_long=False)}
    batcher = Batcher(slow, rig.engine.batcher.hooks, 4)
    batcher.start()
    assert not batcher.wait_warm(0.2)
    goes_on.set()
    assert batcher.wait_warm(15)
    batcher.close(5)
