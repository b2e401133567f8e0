"""Any order of submits, claims, commits, deaths and sweeps by several workers keeps the books straight."""

import itertools
import json
from typing import Any

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from visionpipe.queue import Claim, calls, keys
from visionpipe.schemas.jobs import JobState, Lane, Progress

WORKERS = st.sampled_from(["w1", "w2", "w3"])
TARGETS = st.sampled_from(["net", "net@0123456789ab", "other"])


class Operations(RuleBasedStateMachine):
    """Clients, workers and supervisors at random; ``first`` holds the outcome each item was told first."""

    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self, queue: Any) -> None:
        super().__init__()
        self.queue = queue
        self.queue.redis.flushall()
        self.first: dict[tuple[str, int], int] = {}
        self.serial = itertools.count()
        self.submitted = 0

    @rule(target=jobs, n=st.integers(1, 4), lane=st.sampled_from(list(Lane)), model=TARGETS, hasty=st.booleans())
    def submit(self, n: int, lane: Lane, model: str, hasty: bool) -> str:
        self.submitted += n
        return self.queue.submit(n, lane=lane, model=model, deadline_s=3600 if hasty else None)

    @rule(job=jobs, lane=st.sampled_from(list(Lane)))
    def submit_again(self, job: str, lane: Lane) -> None:
        record = self.queue.record(job)
        if record.deadline_at is None:
            call = self.queue.submission(record.total, job=job, lane=lane, model=record.model)
            assert self.queue.do(call) == (False, record.state)

    @rule(target=claims, n=st.integers(1, 4), lane=st.sampled_from(list(Lane)), model=TARGETS, worker=WORKERS)
    def submit_and_claim(self, n: int, lane: Lane, model: str, worker: str) -> Claim:
        return self.claim(self.submit(n, lane, model, False), worker, True)

    @rule(target=claims, job=jobs, worker=WORKERS, repeat=st.booleans())
    def claim_one(self, job: str, worker: str, repeat: bool) -> Claim:
        return self.claim(job, worker, repeat)

    @rule(target=claims, claim=claims, worker=WORKERS)
    def claim_again(self, claim: Claim, worker: str) -> Claim:
        return self.claim(claim.job, worker, False)

    def claim(self, job: str, worker: str, repeat: bool) -> Claim:
        token = f"t{next(self.serial)}"
        claim = self.queue.claim(job, worker, token)
        if repeat and claim is not None:
            assert self.queue.claim(job, worker, token).finished == claim.finished
        # A ticket that came too late leaves a worker with a token that is worth nothing.
        return claim or Claim(job, token, b"", Lane.BULK, 0, 0.0, None, frozenset())

    @rule(claim=claims)
    def lease_runs_out(self, claim: Claim) -> None:
        self.queue.redis.zadd("vp:leases", {claim.job: 1}, xx=True)
        self.queue.do(calls.sweep(self.queue.settings))

    @rule(job=jobs)
    def deadline_passes(self, job: str) -> None:
        if self.queue.redis.zadd("vp:deadlines", {job: 1}, xx=True, ch=True):
            self.queue.redis.hset(keys.job(job), "deadline_at", 1)

    @rule(
        claim=claims,
        indices=st.lists(st.integers(0, 4), max_size=4),
        ok=st.booleans(),
        final=st.sampled_from([None, None, None, JobState.CANCELLED, JobState.FAILED]),
        repeat=st.booleans(),
    )
    def commit(self, claim: Claim, indices: list[int], ok: bool, final: JobState | None, repeat: bool) -> None:
        before = self.queue.record(claim.job)
        tokens: Any = self.queue.redis.hmget(keys.job(claim.job), "token", "last_token")
        number = next(self.serial)
        outcomes = [(index, ok, json.dumps({"index": index, "number": number}).encode()) for index in indices]
        call = calls.commit(claim.job, claim.token, outcomes, final=final)
        held = self.queue.do(call)
        assert held == (claim.token.encode() in tokens)
        if held and before.state is JobState.RUNNING:
            for index in indices:
                if index < before.total:
                    self.first.setdefault((claim.job, index), number)
        if held and repeat:
            assert self.queue.do(call)

    @rule(target=claims, n=st.integers(2, 4), how=st.sampled_from(["release", "die", "lapse"]), worker=WORKERS)
    def half_done_and_overtaken(self, n: int, how: str, worker: str) -> Any:
        """The first holder finishes one image and loses the job; the next one meets it, and it comes back late."""
        first = self.claim(self.submit(n, Lane.BULK, "net", False), "w1", False)
        self.commit(first, [0], True, None, False)
        if how == "release":
            self.release(first, True)
        elif how == "die":
            self.die("w1")
        else:
            self.lease_runs_out(first)
        self.the_books_are_straight()
        second = self.claim(first.job, worker, True)
        assert second.finished == frozenset({0})
        self.commit(first, [0, 1], False, None, False)
        return second

    @rule(claim=claims, index=st.integers(0, 3))
    def mark(self, claim: Claim, index: int) -> None:
        if index < self.queue.record(claim.job).total:
            self.queue.do(calls.mark(claim.job, claim.token, index))
            self.queue.do(calls.progress(claim.job, claim.token, Progress(done=1)))

    @rule(held=st.lists(claims, max_size=4))
    def renew(self, held: list[Claim]) -> None:
        tokens = [self.queue.redis.hget(keys.job(claim.job), "token") for claim in held]
        answers = self.queue.do(calls.renew([(claim.job, claim.token) for claim in held], self.queue.settings))
        for claim, token, answer in zip(held, tokens, answers, strict=True):
            assert (answer == "lost") == (token != claim.token.encode())

    @rule(claim=claims, repeat=st.booleans())
    def release(self, claim: Claim, repeat: bool) -> None:
        held = self.queue.do(calls.release(claim.job, claim.token))
        if held and repeat:
            assert self.queue.do(calls.release(claim.job, claim.token))

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.queue.do(calls.cancel(job))

    @rule(claim=claims)
    def cancel_claimed(self, claim: Claim) -> None:
        self.queue.do(calls.cancel(claim.job))

    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        self.queue.do(calls.expire_worker(worker, self.queue.settings))

    @rule()
    def sweep(self) -> None:
        self.queue.do(calls.sweep(self.queue.settings))

    @invariant()
    def the_books_are_straight(self) -> None:
        self.queue.check_books()

    def teardown(self) -> None:
        """Let everything end, then look at what is left."""
        for _ in range(2):
            for key in list(self.queue.redis.scan_iter("vp:job:*")):
                job = key.decode().removeprefix("vp:job:")
                if (claim := self.queue.claim(job, "w1", f"t{next(self.serial)}")) is not None:
                    items = [(i, True, json.dumps({"index": i}).encode()) for i in range(self.queue.record(job).total)]
                    assert self.queue.commit(claim, *items)
            for worker in ("w1", "w2", "w3"):
                self.queue.do(calls.expire_worker(worker, self.queue.settings))
        self.queue.check_books()
        self.queue.do(calls.sweep(self.queue.settings))
        self.queue.check_no_leaks()
        books = self.queue.do(calls.accounts()).values()
        assert sum(account.submitted for account in books) == self.submitted
        assert sum(account.open for account in books) == 0
        told = {
            (key.decode().removeprefix("vp:items:"), item["index"]): item.get("number")
            for key in self.queue.redis.scan_iter("vp:items:*")
            for item in self.queue.items(key.decode().removeprefix("vp:items:"))
        }
        assert {key: told[key] for key in self.first} == self.first


def test_random_operations_of_several_workers_keep_the_books(queue, monkeypatch):
    monkeypatch.setattr(calls, "GRACE_S", 0.0)
    queue.settings = queue.settings.model_copy(update={"max_attempts": 4, "sweep_s": 0.0001})
    run_state_machine_as_test(
        lambda: Operations(queue),
        settings=hypothesis_settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
