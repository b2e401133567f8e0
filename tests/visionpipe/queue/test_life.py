"""Claim, mark, renew, commit, progress, release, cancel: each alone, repeated, and out of turn."""

import json
import time

import pytest

from tests.visionpipe.queue.conftest import bad, ok
from visionpipe.errors import InternalError
from visionpipe.queue import calls, keys
from visionpipe.schemas.jobs import ErrorInfo, JobState, Lane, Progress


def accounts(queue):
    return queue.do(calls.accounts())["net"]


def test_a_claim_says_what_to_do_and_since_when(queue):
    job = queue.submit(2, lane=Lane.INTERACTIVE, deadline_s=5)
    claim = queue.claim(job)
    assert (claim.job, claim.lane, claim.attempts, claim.finished) == (job, Lane.INTERACTIVE, 0, frozenset())
    assert json.loads(claim.request)["images"][0]["key"] == f"blob:{job}:0"
    assert 0 <= claim.waited_ms < 2000
    assert 3000 < claim.left_ms <= 5000
    record = queue.record(job)
    assert (record.state, record.worker) == (JobState.RUNNING, "w1")
    queue.check_books()


def test_a_second_ticket_claims_nothing(queue):
    job = queue.submit()
    assert queue.claim(job, "w1") is not None
    assert queue.claim(job, "w2") is None
    assert queue.record(job).worker == "w1"


def test_a_claim_whose_answer_was_lost_is_the_same_claim(queue):
    job = queue.submit()
    first = queue.claim(job, token="t")
    again = queue.claim(job, token="t")
    assert again._replace(waited_ms=0) == first._replace(waited_ms=0)
    queue.check_books()


def test_a_ticket_of_an_unknown_or_ended_job_claims_nothing(queue):
    claim = queue.held(1)
    queue.commit(claim, ok(0))
    assert queue.claim(claim.job) is None
    assert queue.claim("never") is None
    queue.check_books()


def test_a_claim_after_the_deadline_expires_the_job(queue):
    job = queue.submit(3, deadline_s=0.001)
    time.sleep(0.01)
    assert queue.claim(job) is None
    assert queue.record(job).error.code == "deadline_exceeded"
    assert accounts(queue).expired == 3
    queue.check_books()


def test_items_come_back_in_order_and_end_the_job(queue):
    claim = queue.held(3)
    assert queue.commit(claim, ok(2, b'{"n":2}'))
    assert queue.record(claim.job).finished == 1
    assert queue.blobs(claim.job) == 3
    assert queue.commit(claim, ok(0, b'{"n":0}'), bad(1))
    assert queue.record(claim.job).state is JobState.DONE
    assert [item.get("n") for item in queue.items(claim.job)] == [0, None, 2]
    assert (accounts(queue).done, accounts(queue).failed, accounts(queue).open) == (2, 1, 0)
    assert queue.blobs(claim.job) == 0
    assert queue.replies()[-1] == (claim.job, "done")
    queue.check_books()


def test_the_first_outcome_of_an_item_stays(queue):
    claim = queue.held(2)
    assert queue.commit(claim, ok(0, b'{"n":1}'))
    assert queue.commit(claim, (0, False, b'{"n":2}'))
    assert queue.items(claim.job) == [{"n": 1}]
    assert (accounts(queue).done, accounts(queue).failed) == (1, 0)
    queue.check_books()


def test_a_final_commit_may_be_sent_again(queue):
    claim = queue.held(1)
    call = calls.commit(claim.job, claim.token, [ok(0)])
    assert queue.do(call)
    assert queue.do(call)
    assert accounts(queue).done == 1
    assert [state for _, state in queue.replies()].count("done") == 1
    queue.check_books()


def test_outcomes_that_no_image_of_the_job_has_are_dropped(queue):
    claim = queue.held(1)
    assert queue.commit(claim, ok(1), ok(-1), ok(7))
    assert queue.record(claim.job).state is JobState.RUNNING
    assert queue.items(claim.job) == []
    queue.check_books()


def test_a_job_may_fail_as_a_whole(queue):
    claim = queue.held(3)
    queue.commit(claim, ok(0))
    error = ErrorInfo(code="unsupported_task", message="no")
    assert queue.do(calls.commit(claim.job, claim.token, [], final=JobState.FAILED, error=error))
    assert queue.record(claim.job).error == error
    assert (accounts(queue).done, accounts(queue).failed, accounts(queue).open) == (1, 2, 0)
    queue.check_books()


def test_a_lost_holder_can_write_nothing(queue, brief):
    claim = queue.held(2, lease=brief)
    queue.commit(claim, ok(0))
    time.sleep(0.01)
    assert queue.do(calls.sweep(queue.settings)).lapsed == 1
    assert not queue.commit(claim, ok(1))
    assert not queue.do(calls.mark(claim.job, claim.token, 1))
    assert not queue.do(calls.progress(claim.job, claim.token, Progress(done=1)))
    assert not queue.do(calls.release(claim.job, claim.token))
    assert queue.do(calls.renew([(claim.job, claim.token)], queue.settings)) == ["lost"]
    next_claim = queue.claim(claim.job, "w2")
    assert (next_claim.finished, next_claim.attempts) == (frozenset({0}), 1)
    assert not queue.commit(claim, ok(1))
    queue.check_books()


@pytest.mark.parametrize("fate", ["deadline", "cancel"])
def test_a_holder_whose_job_was_ended_by_others_is_told_so(queue, monkeypatch, fate, brief):
    monkeypatch.setattr(calls, "GRACE_S", 0.0)
    claim = queue.held(1, deadline_s=0.3, lease=brief if fate == "cancel" else queue.settings)
    if fate == "cancel":
        queue.do(calls.cancel(claim.job))
    time.sleep(0.31)
    queue.do(calls.sweep(queue.settings))
    assert queue.record(claim.job).state is (JobState.CANCELLED if fate == "cancel" else JobState.EXPIRED)
    assert not queue.commit(claim, ok(0))
    assert queue.items(claim.job) == []
    queue.check_books()


def test_renewal_moves_the_lease_and_keeps_pixels_alive(queue):
    claim = queue.held(2)
    before = queue.redis.zscore("vp:leases", claim.job)
    queue.redis.pexpire(keys.stored(f"blob:{claim.job}:1"), 1000)
    time.sleep(0.005)
    answer = queue.do(calls.renew([(claim.job, claim.token), ("never", "t"), (claim.job, "x")], queue.settings))
    assert answer == ["ok", "lost", "lost"]
    assert queue.redis.zscore("vp:leases", claim.job) > before
    assert queue.redis.pttl(keys.stored(f"blob:{claim.job}:1")) > 3_000_000
    queue.check_books()


def test_pixels_are_not_refreshed_at_every_beat(queue):
    claim = queue.held(1)
    queue.do(calls.renew([(claim.job, claim.token)], queue.settings))
    queue.redis.pexpire(keys.stored(f"blob:{claim.job}:0"), 2_000_000)
    queue.do(calls.renew([(claim.job, claim.token)], queue.settings))
    assert queue.redis.pttl(keys.stored(f"blob:{claim.job}:0")) <= 2_000_000


def test_a_waiting_client_keeps_queued_pixels_alive(queue):
    queued, held = queue.submit(1), queue.held(1)
    for job in (queued, held.job):
        queue.redis.pexpire(keys.stored(f"blob:{job}:0"), 1000)
    queue.do(calls.touch([queued, held.job, "never"], queue.settings))
    assert queue.redis.pttl(keys.stored(f"blob:{queued}:0")) > 3_000_000
    assert queue.redis.pttl(keys.stored(f"blob:{held.job}:0")) <= 1000


@pytest.mark.parametrize("fate", ["cancelled", "expired"])
def test_a_stopped_job_keeps_its_lease_only_for_the_grace(queue, monkeypatch, fate):
    claim = queue.held(1, deadline_s=0.3 if fate == "expired" else None)
    if fate == "cancelled":
        queue.do(calls.cancel(claim.job))
    else:
        time.sleep(0.31)
    before = queue.redis.zscore("vp:leases", claim.job)
    time.sleep(0.01)
    assert queue.do(calls.renew([(claim.job, claim.token)], queue.settings)) == [fate]
    during = queue.redis.zscore("vp:leases", claim.job)
    assert during > before
    time.sleep(0.01)
    monkeypatch.setattr(calls, "GRACE_S", 0.001)
    assert queue.do(calls.renew([(claim.job, claim.token)], queue.settings)) == [fate]
    assert queue.redis.zscore("vp:leases", claim.job) == during


def test_progress_is_recorded_and_told_at_most_once_a_second(queue):
    claim = queue.held(1)
    for done in range(5):
        assert queue.do(calls.progress(claim.job, claim.token, Progress(done=done, total=9, note="step")))
    assert queue.record(claim.job).progress == Progress(done=4, total=9, note="step")
    assert queue.replies() == [(claim.job, "running")]


def test_a_released_job_waits_again_at_the_front_without_an_attempt(queue):
    first, second = queue.submit(2), queue.submit(2)
    queue.redis.rpop(keys.lane_list("net", Lane.BULK))
    claim = queue.claim(first)
    queue.do(calls.mark(first, claim.token, 0))
    queue.commit(claim, ok(1))
    assert queue.do(calls.release(first, claim.token))
    assert queue.do(calls.release(first, claim.token)), "a repeated release is the same release"
    record = queue.record(first)
    assert (record.state, record.attempts, record.finished) == (JobState.QUEUED, 0, 1)
    assert queue.tickets() == [first, second]
    assert queue.blobs(first) == 2
    queue.check_books()


def test_releasing_a_cancelled_job_ends_it(queue):
    claim = queue.held(2)
    queue.do(calls.cancel(claim.job))
    assert queue.do(calls.release(claim.job, claim.token))
    assert queue.record(claim.job).state is JobState.CANCELLED
    assert accounts(queue).cancelled == 2
    queue.check_books()


def test_a_queued_job_is_cancelled_at_once(queue):
    job = queue.submit(3)
    assert [queue.do(calls.cancel(job)) for _ in range(2)] == [JobState.CANCELLED] * 2
    assert queue.record(job).error.code == "cancelled"
    assert (accounts(queue).cancelled, accounts(queue).open) == (3, 0)
    assert queue.claim(job) is None
    assert queue.do(calls.cancel("never")) is None
    queue.check_books()


def test_cancelling_a_running_job_tells_its_worker_once_and_keeps_what_is_finished(queue):
    claim = queue.held(3)
    queue.commit(claim, ok(1))
    assert [queue.do(calls.cancel(claim.job)) for _ in range(3)] == [JobState.RUNNING] * 3
    assert queue.record(claim.job).cancel_requested
    assert queue.redis.lrange(keys.control("w1"), 0, -1) == [claim.job.encode()]
    assert 0 < queue.redis.pttl(keys.control("w1")) <= 60_000
    assert queue.commit(claim, ok(0), final=JobState.CANCELLED)
    assert queue.record(claim.job).state is JobState.CANCELLED
    assert len(queue.items(claim.job)) == 2
    assert (accounts(queue).done, accounts(queue).cancelled) == (2, 1)
    queue.check_books()


def test_the_last_item_wins_over_a_cancellation(queue):
    claim = queue.held(1)
    queue.do(calls.cancel(claim.job))
    assert queue.commit(claim, ok(0), final=JobState.CANCELLED)
    assert queue.record(claim.job).state is JobState.DONE


def test_an_ended_job_is_read_with_its_model_and_items_and_without_its_request(queue):
    claim = queue.held(1, job="one")
    queue.commit(claim, ok(0, b'{"n":0}'))
    found = queue.do(calls.envelope("one"))
    assert (found.record.state, found.model.name, found.items) == (JobState.DONE, "net", [b'{"n":0}'])
    assert not queue.redis.hexists(keys.job("one"), "request")
    assert queue.do(calls.envelope("never")) is None
    assert queue.do(calls.read_items("never")) == []


def test_pixels_in_an_external_store_are_listed_for_deletion_when_their_job_ends(queue):
    job = queue.submit(1, payloads={}, external_store=True)
    assert queue.do(calls.gc()) == []
    assert queue.do(queue.submission(1, job=job, payloads={}, external_store=True)).created is False
    assert queue.do(calls.gc()) == []
    queue.do(calls.cancel(job))
    assert queue.do(calls.gc()) == [job]
    assert queue.do(calls.gc()) == []


def test_a_refused_submission_does_not_list_pixels_for_deletion(queue):
    with pytest.raises(Exception, match="live worker"):
        queue.submit(1, payloads={}, external_store=True, wait_for_worker=False)
    assert queue.do(calls.gc()) == []


@pytest.mark.parametrize(
    ("pixels", "together"), [([b"png"], b"png"), ([b"png", b"png"], b""), ([bytes(2**20 + 1)], b""), ([], b"")]
)
def test_one_blob_of_ordinary_size_comes_with_the_claim(queue, pixels, together):
    payloads = {f"blob:one:{index}": data for index, data in enumerate(pixels)}
    job = queue.submit(max(1, len(pixels)), job="one", payloads=payloads)
    assert queue.claim(job).pixels == together


@pytest.mark.parametrize("field", ["progress", "error", "model_info"])
@pytest.mark.parametrize("text", ["5", "null", "{"])
def test_a_damaged_record_is_said_to_be_so_and_not_waited_for(queue, field, text):
    job = queue.held(1).job
    queue.redis.hset(f"vp:job:{job}", field, text)
    with pytest.raises(InternalError, match="damaged"):
        queue.do(calls.envelope(job))


def test_a_claim_tells_how_often_the_job_found_no_store(queue):
    claim = queue.held(2)
    assert claim.num_let_go == 0
    assert queue.do(calls.release(claim.job, claim.token, let_go=True))
    assert queue.do(calls.release(claim.job, claim.token, let_go=True)), "a repeated release counts once"
    again = queue.claim(claim.job)
    assert again.num_let_go == 1
    assert queue.do(calls.release(claim.job, again.token))
    queue.redis.hset(keys.job(claim.job), "let_go", "often")
    strange = queue.claim(claim.job)
    assert queue.do(calls.release(claim.job, strange.token, let_go=True))
    queue.redis.hset(keys.job(claim.job), "let_go", "often")
    strange = queue.claim(claim.job)
    assert strange.num_let_go == 0, "what a stranger wrote there stops nobody"
    queue.commit(strange, ok(0))
    assert not queue.redis.hexists(keys.job(claim.job), "let_go"), "work that gets on finds its store"
