"""Submitting: what is accepted, what is refused, and that nothing is half done."""

import pytest
import redis as redis_py

from visionpipe.errors import (
    InvalidRequestError,
    JobConflictError,
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
)
from visionpipe.queue import aconnect, arun, calls, connect, keys, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.requests import ClassificationRequest


def test_an_accepted_job_has_record_ticket_pixels_and_an_account(queue):
    job = queue.submit(3, lane=Lane.INTERACTIVE)
    record = queue.record(job)
    assert (record.state, record.total, record.finished, record.attempts) == (JobState.QUEUED, 3, 0, 0)
    assert queue.tickets(lane=Lane.INTERACTIVE) == [job]
    assert [queue.redis.get(keys.stored(f"blob:{job}:{i}")) for i in range(3)] == [b"png"] * 3
    assert 0 < queue.redis.pttl(keys.stored(f"blob:{job}:0")) <= queue.settings.blob_ttl_s * 1000
    assert queue.do(calls.accounts())["net"].submitted == 3
    assert not list(queue.redis.scan_iter("vp:stage:*"))
    queue.check_books()


def test_the_same_id_and_request_is_the_same_job(queue):
    job = queue.submit()
    again = queue.do(queue.submission(job=job))
    assert again == (False, JobState.QUEUED)
    assert queue.tickets() == [job]
    assert queue.do(calls.accounts())["net"].submitted == 2
    queue.check_books()


def test_a_submission_whose_answer_was_lost_may_be_sent_again(queue):
    call = queue.submission(job="one")
    assert queue.do(call).created
    assert not queue.do(call).created
    assert queue.blobs("one") == 2
    assert not list(queue.redis.scan_iter("vp:stage:*"))


def test_pixels_that_expired_come_back_with_whoever_submits_again(queue):
    job = queue.submit(2)
    queue.redis.delete(keys.stored(f"blob:{job}:1"))
    queue.do(queue.submission(2, job=job, payloads={f"blob:{job}:{i}": b"again" for i in range(2)}))
    assert [queue.redis.get(keys.stored(f"blob:{job}:{i}")) for i in range(2)] == [b"png", b"again"]
    assert not list(queue.redis.scan_iter("vp:stage:*"))
    queue.do(calls.cancel(job))
    assert queue.blobs(job) == 0


def test_a_conflicting_request_leaves_the_first_jobs_pixels_alone(queue):
    job = queue.submit(2)
    other = {f"blob:{job}:{i}": b"other" for i in range(3)}
    with pytest.raises(JobConflictError, match="taken by a different request"):
        queue.submit(3, job=job, payloads=other)
    assert [queue.redis.get(keys.stored(f"blob:{job}:{i}")) for i in range(3)] == [b"png", b"png", None]
    assert not list(queue.redis.scan_iter("vp:stage:*"))


def test_submitting_an_ended_job_again_stores_no_pixels(queue):
    claim = queue.held(1)
    queue.commit(claim, (0, True, b"{}"))
    assert queue.do(queue.submission(1, job=claim.job)) == (False, JobState.DONE)
    assert queue.blobs(claim.job) == 0


def test_without_a_worker_the_job_is_refused_and_nothing_remains(queue):
    with pytest.raises(NoWorkerError, match="visionpipe worker net") as caught:
        queue.submit(job="one", wait_for_worker=False, model=f"net@{'a' * 12}")
    assert caught.value.details["model"] == f"net@{'a' * 12}"
    assert list(queue.redis.scan_iter()) == []


def test_a_live_worker_is_found_by_name_and_by_digest(queue):
    record = queue.announce()
    queue.submit(wait_for_worker=False)
    queue.submit(wait_for_worker=False, model=f"net@{record.digest}")
    with pytest.raises(NoWorkerError):
        queue.submit(wait_for_worker=False, model=f"net@{'f' * 12}")


def test_a_full_lane_refuses_with_a_hint_from_the_workers_rate(queue):
    small = queue.settings.model_copy(update={"max_queued_items": 10})
    queue.announce(rate=4.0)
    queue.submit(8, settings=small)
    with pytest.raises(QueueFullError, match="8 images wait") as caught:
        queue.submit(3, settings=small)
    assert caught.value.details["retry_after_s"] == pytest.approx(0.5)
    assert caught.value.details["queued_items"] == 8
    queue.submit(3, settings=small, lane=Lane.INTERACTIVE)
    queue.submit(2, settings=small)
    queue.check_books()
    assert not list(queue.redis.scan_iter("vp:stage:*"))


def test_a_job_larger_than_the_bound_gets_in_when_nothing_waits(queue):
    small = queue.settings.model_copy(update={"max_queued_items": 2})
    queue.submit(5, settings=small)
    with pytest.raises(QueueFullError):
        queue.submit(1, settings=small)


@pytest.mark.parametrize("word", ["interactive", "bulk", "a:b", "", "%1", 'x"y', "-a", "a" * 129])
def test_ids_that_would_break_keys_or_tickets_are_refused(queue, word):
    asked = ClassificationRequest(model="net", images=[BlobImage(key="upload:0", size_bytes=1)])
    with pytest.raises(InvalidRequestError, match="Expected a job id"):
        calls.submit(asked, job=word, lane=Lane.BULK, client="c1", settings=queue.settings)


def test_a_model_named_like_a_lane_is_refused(queue):
    with pytest.raises(InvalidRequestError, match="Expected a model"):
        queue.submit(model="bulk")


def test_payloads_of_another_job_are_a_callers_mistake(queue):
    with pytest.raises(ValueError, match="without gaps"):
        queue.submit(2, job="one", payloads={"blob:two:0": b"", "blob:two:1": b""})


def test_pixels_beyond_the_images_belong_to_the_job_too(queue):
    job = "one"
    queue.submit(1, job=job, payloads={f"blob:{job}:{i}": b"style" for i in range(3)})
    assert queue.blobs(job) == 3
    queue.do(calls.cancel(job))
    assert queue.blobs(job) == 0


def test_a_job_of_4096_images_passes_every_script(queue):
    claim = queue.held(4096, lane=Lane.BULK)
    assert queue.do(calls.renew([(claim.job, claim.token)], queue.settings)) == ["ok"]
    assert queue.do(calls.release(claim.job, claim.token))
    claim = queue.claim(claim.job)
    assert queue.commit(claim, *((i, True, b"{}") for i in range(4096)))
    assert queue.record(claim.job).state is JobState.DONE
    queue.check_books()


def test_a_full_server_refuses_jobs_but_lets_those_it_has_end(queue):
    first, second = queue.held(1), queue.submit(1)
    used = queue.redis.info("memory")["used_memory"]
    queue.redis.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(QueueFullError, match="memory limit"):
            queue.submit(1, job="late")
        assert queue.record(first.job).state is JobState.RUNNING
        assert queue.do(calls.renew([(first.job, first.token)], queue.settings)) == ["ok"]
        assert queue.commit(first, (0, True, b"{}" + b" " * 1000))
        queue.announce()
        claim = queue.claim(second)
        assert queue.do(calls.release(second, claim.token))
        assert queue.do(calls.cancel(second)) is JobState.CANCELLED
    finally:
        queue.redis.config_set("maxmemory", 0)
    assert queue.do(calls.read("late")) is None
    queue.check_books()


def test_pixels_that_did_not_arrive_refuse_the_job(queue):
    call = queue.submission(2, job="one")
    call.sets.pop(next(iter(call.sets)))
    with pytest.raises(QueueUnavailableError, match="did not arrive"):
        queue.do(call)
    assert list(queue.redis.scan_iter()) == []


def test_an_unreachable_redis_is_a_typed_error(tmp_path):
    with redis_py.Redis.from_url(f"unix://{tmp_path}/none") as redis, pytest.raises(QueueUnavailableError):
        run(redis, calls.read("one"))


def test_leftover_items_of_a_vanished_record_do_not_join_a_new_job(queue):
    queue.redis.hset(keys.items("one"), "0", b"{}")
    queue.submit(1, job="one")
    assert queue.items("one") == []


def test_a_call_survives_a_cut_connection_and_a_forgotten_script_at_once(queue):
    job = queue.submit(1)
    with redis_py.Redis.from_url(queue.settings.redis_url) as other:
        other.client_kill_filter(_type="normal", skipme=True)
        other.script_flush()
    assert queue.do(calls.cancel(job)) is JobState.CANCELLED


async def test_asyncio_callers_are_served_alike(queue):
    redis = aconnect(queue.settings.redis_url)
    try:
        assert (await arun(redis, queue.submission(job="one"))).created
        queue.redis.script_flush()
        queue.redis.client_kill_filter(_type="normal", skipme=True)
        assert (await arun(redis, calls.read("one"))).total == 2
        with pytest.raises(JobConflictError):
            await arun(redis, queue.submission(3, job="one"))
    finally:
        await redis.aclose()


def test_one_silent_connection_closes_the_idle_ones_of_every_pool(queue):
    with connect(queue.settings.redis_url + "?socket_timeout=0.2") as silent, connect(queue.settings.redis_url) as idle:
        before = idle.client_id()
        with pytest.raises(redis_py.TimeoutError):
            silent.blpop(["vp:never"], timeout=2)
        assert idle.client_id() != before
