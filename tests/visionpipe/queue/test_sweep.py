"""What mends the queue: leases, deadlines, tickets, announcements; and that nothing piles up."""

import time

import pytest

from visionpipe.errors import InvalidRequestError
from visionpipe.queue import calls, keys
from visionpipe.schemas.jobs import JobState, Lane


@pytest.fixture
def quick(queue, monkeypatch):
    """Sweeps that need no waiting."""
    queue.settings = queue.settings.model_copy(update={"sweep_s": 0.001})
    return queue


def sweep(queue):
    time.sleep(0.005)
    return queue.do(calls.sweep(queue.settings))


def test_an_expired_lease_queues_the_job_again_at_the_front(queue, brief):
    held, waiting = queue.held(2, lease=brief), queue.submit()
    queue.redis.rpop(keys.lane_list("net", Lane.BULK))
    assert sweep(queue) == (1, 0, 0, 0)
    record = queue.record(held.job)
    assert (record.state, record.attempts) == (JobState.QUEUED, 1)
    assert queue.tickets() == [held.job, waiting]
    queue.check_books()


def test_a_living_lease_is_left_alone(queue):
    claim = queue.held()
    assert sweep(queue)[:2] == (0, 0)
    assert queue.record(claim.job).state is JobState.RUNNING


def test_a_cancelled_job_ends_with_its_lease(queue, brief):
    claim = queue.held(2, lease=brief)
    queue.do(calls.cancel(claim.job))
    sweep(queue)
    assert queue.record(claim.job).state is JobState.CANCELLED
    queue.check_books()


def test_deadlines_end_queued_jobs_at_once_and_running_ones_after_the_grace(queue, monkeypatch):
    queued, running = queue.submit(2, deadline_s=0.3), queue.held(3, deadline_s=0.3)
    queue.commit(running, (0, True, b"{}"))
    time.sleep(0.31)
    assert sweep(queue).expired == 1
    assert queue.record(queued).state is JobState.EXPIRED
    assert queue.record(running.job).state is JobState.RUNNING
    monkeypatch.setattr(calls, "GRACE_S", 0.0)
    assert sweep(queue).expired == 1
    assert queue.record(running.job).error.code == "deadline_exceeded"
    assert len(queue.items(running.job)) == 1
    assert queue.do(calls.accounts())["net"].expired == 4
    queue.check_books()


def test_a_dead_workers_job_past_its_deadline_expires_instead_of_waiting_again(queue):
    claim = queue.held(1, deadline_s=0.3)
    time.sleep(0.31)
    queue.do(calls.expire_worker("w1", queue.settings))
    assert queue.record(claim.job).state is JobState.EXPIRED
    queue.check_books()


def test_a_lost_ticket_is_rewritten_after_a_whole_sweep_and_not_before(queue):
    slow = queue.settings.model_copy(update={"sweep_s": 0.3})
    jobs = [queue.submit(1) for _ in range(3)]
    queue.redis.rpop(keys.lane_list("net", Lane.BULK))
    assert queue.do(calls.sweep(slow)).reticketed == 0
    assert queue.do(calls.sweep(slow)).reticketed == 0
    time.sleep(0.31)
    assert queue.do(calls.sweep(slow)).reticketed == 1
    assert queue.tickets() == jobs
    time.sleep(0.31)
    assert queue.do(calls.sweep(slow)).reticketed == 0


def test_a_ticket_that_was_only_on_its_way_is_not_rewritten(quick):
    quick.submit(1)
    job = quick.submit(1)
    quick.redis.lpop(keys.lane_list("net", Lane.BULK))
    sweep(quick)
    quick.claim(job)
    assert sweep(quick).reticketed == 0
    assert quick.redis.hlen("vp:short") == 0


@pytest.mark.parametrize("num_jobs", [3, calls.SWEEP_LIMIT + 5])
def test_a_purged_list_is_written_anew_in_order(quick, num_jobs):
    jobs = [quick.submit(1, payloads={}) for _ in range(num_jobs)]
    time.sleep(0.002)
    quick.redis.delete(keys.lane_list("net", Lane.BULK))
    sweep(quick)
    assert sweep(quick).reticketed == num_jobs
    assert sorted(quick.tickets()) == sorted(jobs)
    assert quick.tickets()[0] == jobs[0]


def test_tickets_of_cancelled_jobs_do_not_pile_up(quick):
    stale = [quick.submit(1, payloads={}) for _ in range(1010)]
    keep = quick.submit(1)
    for job in stale:
        quick.do(calls.cancel(job))
    assert quick.redis.llen(keys.lane_list("net", Lane.BULK)) == 1011
    sweep(quick)
    assert quick.tickets() == [keep]
    quick.do(calls.cancel(keep))
    sweep(quick)
    assert quick.tickets() == []


def test_a_record_that_vanished_leaves_the_queue_and_the_sweep_goes_on(quick, brief):
    gone, stays = quick.submit(2), quick.submit(3)
    lost = quick.held(4, lease=brief)
    quick.redis.delete(keys.job(gone), keys.job(lost.job), keys.lane_list("net", Lane.BULK))
    for _ in range(3):
        sweep(quick)
    assert quick.tickets() == [stays]
    quick.do(calls.cancel(stays))
    assert quick.redis.hlen("vp:depth") == 0
    claim = quick.held(1)
    quick.commit(claim, (0, True, b"{}"))
    assert not quick.redis.exists("vp:running")


def test_an_unreadable_request_does_not_stop_the_sweep(quick, brief):
    broken, sound = quick.held(1, lease=brief), quick.held(1, lease=brief)
    quick.redis.hset(keys.job(broken.job), mapping={"request": b"{", f"marks:{0}": 9})
    quick.do(calls.mark(broken.job, broken.token, 0))
    assert sweep(quick).lapsed == 2
    assert quick.items(broken.job)[0]["error"]["code"] == "poison"
    assert quick.record(sound.job).state is JobState.QUEUED


def test_a_reaped_workers_jobs_wait_again_at_once_and_it_is_announced_no_more(queue):
    queue.announce("w1")
    queue.announce("w2")
    first, other = queue.held(2), queue.held(2, worker="w2")
    assert queue.do(calls.expire_worker("w1", queue.settings)) == 1
    assert queue.do(calls.expire_worker("w1", queue.settings)) == 0
    assert queue.record(first.job).state is JobState.QUEUED
    assert queue.record(other.job).state is JobState.RUNNING
    assert [record.worker for record in queue.do(calls.workers())] == ["w2"]
    queue.check_books()


def test_announcements_are_read_back_with_the_time_of_their_beat(queue):
    told = queue.announce(rate=12.5)
    (found,) = queue.do(calls.workers())
    assert found.model_copy(update={"beat_at": 0.0}) == told
    assert found.beat_at == pytest.approx(float(queue.redis.time()[0]), abs=2)
    queue.do(calls.retire(told))
    assert queue.do(calls.workers()) == []
    assert not queue.redis.exists("vp:workers", "vp:beats", "vp:beaten", "vp:serving:net:bulk")


def test_a_worker_that_stops_beating_is_no_longer_live(queue):
    queue.settings = queue.settings.model_copy(update={"renew_s": 0.05})
    queue.announce()
    assert len(queue.do(calls.workers())) == 1
    time.sleep(0.2)
    assert queue.do(calls.workers()) == []


def test_a_worker_named_like_a_lane_is_refused(queue):
    with pytest.raises(InvalidRequestError, match="Expected a worker id"):
        queue.announce("bulk")


def test_queues_show_what_waits_and_runs(queue):
    queue.announce()
    queue.held(3)
    queue.submit(2)
    queue.submit(4)
    bulk = next(q for q in queue.do(calls.queues()) if (q.target, q.lane) == ("net", Lane.BULK))
    assert (bulk.queued_jobs, bulk.queued_items, bulk.running_items) == (2, 6, 3)
    assert 0 <= bulk.oldest_wait_s < 5


def test_lanes_of_versions_that_nobody_serves_any_more_are_forgotten(quick):
    quick.settings = quick.settings.model_copy(update={"renew_s": 0.005})
    for number in range(20):
        quick.announce(f"w{number}", digest=f"{number:012x}")
    busy = quick.held(1, model=f"net@{3:012x}")
    waiting = quick.submit(1, model=f"net@{4:012x}")
    sweep(quick)
    time.sleep(0.05)
    sweep(quick)
    assert quick.redis.smembers("vp:lanes") == {f"net@{3:012x}:bulk".encode(), f"net@{4:012x}:bulk".encode()}
    quick.commit(busy, (0, True, b"{}"))
    quick.do(calls.cancel(waiting))
    sweep(quick)
    assert not quick.redis.exists("vp:lanes", "vp:short", "vp:depth", "vp:running")
    assert not list(quick.redis.scan_iter("vp:serving:*"))
    assert quick.do(calls.accounts())["net"].submitted == 2


def test_after_jobs_of_all_fates_only_bounded_keys_remain(quick, brief, monkeypatch):
    monkeypatch.setattr(calls, "GRACE_S", 0.0)
    quick.announce()
    for lane in Lane:
        done, failed = quick.held(2, lane=lane), quick.held(2, lane=lane)
        quick.commit(done, (0, True, b"{}"), (1, True, b"{}"))
        quick.commit(failed, final=JobState.FAILED)
        quick.do(calls.cancel(quick.submit(2, lane=lane)))
        stopped = quick.held(2, lane=lane)
        quick.do(calls.cancel(stopped.job))
        quick.commit(stopped, (0, True, b"{}"), final=JobState.CANCELLED)
        quick.submit(2, lane=lane, deadline_s=0.001)
        dead = quick.held(2, lane=lane, worker="w9", lease=brief)
        quick.do(calls.cancel(dead.job))
        for n in range(3):
            quick.do(calls.mark(quick.claim(quick.submit(1, lane=lane)).job, f"token-{n}", 0))
    for _ in range(quick.settings.max_attempts + 1):
        quick.do(calls.expire_worker("w1", quick.settings))
        sweep(quick)
        for lane in Lane:
            for job in quick.tickets(lane=lane):
                quick.claim(job)
    time.sleep(0.01)
    sweep(quick)
    account = quick.do(calls.accounts())["net"]
    assert account.open == 0
    quick.check_books()
    quick.check_no_leaks()
    assert quick.blobs("*") == 0


def test_everything_about_a_job_expires(queue):
    queue.settings = queue.settings.model_copy(update={"result_ttl_s": 0.2})
    claim = queue.held(1)
    queue.commit(claim, (0, True, b"{}"))
    time.sleep(0.25)
    assert queue.do(calls.read(claim.job)) is None
    assert not queue.redis.exists(keys.job(claim.job), keys.items(claim.job))
    assert queue.redis.pttl(keys.reply("c1")) > 0
    assert queue.submit(1, job=claim.job) == claim.job
