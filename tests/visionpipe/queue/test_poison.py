"""An image that is marked whenever its worker dies is convicted alone."""

from tests.visionpipe.queue.conftest import ok
from visionpipe.queue import calls
from visionpipe.schemas.jobs import Item, JobState
from visionpipe.schemas.results import Result


def poison(queue, claim, index: int) -> None:
    """The holder marks an image and dies."""
    assert queue.do(calls.mark(claim.job, claim.token, index))
    assert queue.do(calls.expire_worker("w1", queue.settings)) == 1


def test_the_image_marked_when_its_worker_died_twice_is_poison_and_its_neighbours_live(queue):
    job = queue.submit(3)
    poison(queue, queue.claim(job), 1)
    assert queue.items(job) == []
    claim = queue.claim(job)
    queue.do(calls.mark(job, claim.token, 0))
    queue.commit(claim, ok(0))
    poison(queue, claim, 1)
    told = [Item[Result].model_validate_json(text) for text in queue.do(calls.read_items(job))[1:]]
    assert [(item.index, item.name, item.error.code) for item in told] == [(1, "1.png", "poison")]
    claim = queue.claim(job)
    assert (claim.attempts, claim.finished) == (2, frozenset({0, 1}))
    queue.commit(claim, ok(2))
    assert queue.record(job).state is JobState.DONE
    assert (queue.do(calls.accounts())["net"].done, queue.do(calls.accounts())["net"].failed) == (2, 1)
    queue.check_books()


def test_a_mark_is_gone_once_its_image_has_an_outcome(queue):
    claim = queue.held(2)
    for _ in range(queue.settings.max_marks):
        queue.do(calls.mark(claim.job, claim.token, 0))
        queue.commit(claim, ok(0))
        queue.do(calls.expire_worker("w1", queue.settings))
        claim = queue.claim(claim.job)
    assert claim.finished == frozenset({0})
    assert queue.items(claim.job) == [{}]
    queue.check_books()


def test_a_poisoned_last_image_ends_its_job(queue):
    job = queue.submit(1)
    for _ in range(queue.settings.max_marks):
        poison(queue, queue.claim(job), 0)
    assert queue.record(job).state is JobState.DONE
    assert queue.blobs(job) == 0
    queue.check_books()


def test_a_job_that_keeps_losing_workers_fails(queue):
    job = queue.submit(2)
    for _ in range(queue.settings.max_attempts):
        claim = queue.claim(job)
        queue.do(calls.expire_worker("w1", queue.settings))
    record = queue.record(job)
    assert (record.state, record.error.code, record.attempts) == (JobState.FAILED, "poison", claim.attempts + 1)
    assert queue.do(calls.accounts())["net"].failed == 2
    queue.check_books()


def test_a_job_of_many_guilty_images_outlives_more_deaths_than_an_unmarked_one_may(queue):
    guilty = list(range(queue.settings.max_attempts))
    job = queue.submit(len(guilty) + 1)
    for index in guilty:
        for _ in range(queue.settings.max_marks):
            poison(queue, queue.claim(job), index)
    claim = queue.claim(job)
    assert claim.finished == frozenset(guilty)
    queue.commit(claim, ok(len(guilty)))
    assert queue.record(job).state is JobState.DONE
    queue.check_books()
