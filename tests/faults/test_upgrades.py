"""Versions that differ: each side meets fields, tasks and words it does not know, says so, and lives on."""

import json

import pytest

from tests.faults.forge import CALM, wait_for
from tests.faults.probe_model import picture
from visionpipe.client import Client
from visionpipe.errors import InternalError, InvalidRequestError, UnknownTaskError
from visionpipe.queue import calls, run
from visionpipe.queue.scripts import script
from visionpipe.schemas.jobs import JobState


def send(stage, job, **changes):
    """Submit what a client of another version would: today's request with changes."""
    key = f"blob:{job}:0"
    image = {"kind": "blob", "key": key, "size_bytes": len(picture(1)), "name": "1"}
    document = {"task": "classification", "model": "probe", "images": [image], "options": {}}
    document |= {name: value for name, value in changes.items() if name != "options"}
    document["options"] |= changes.get("options", {})

    class Foreign:
        model, deadline_s, num_items, task = "probe", None, 1, document["task"]

        @staticmethod
        def model_dump_json():
            return json.dumps(document)

    call = calls.submit(
        Foreign,
        job=job,
        lane="bulk",
        client="t",
        settings=stage.settings,
        payloads={key: picture(1)},  # type: ignore[arg-type]
    )
    run(stage.redis, call)
    return job


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"options": {"sharpen": True}}, InvalidRequestError, "options.sharpen: is not a field here"),
        ({"priority": 3}, InvalidRequestError, "priority: is not a field here"),
        ({"images": [{"kind": "hologram", "key": "x"}]}, InvalidRequestError, "images"),
        ({"task": "depth"}, UnknownTaskError, "There is no task 'depth'. Known tasks: classification"),
    ],
    ids=["an option", "a field", "a kind of image", "a task"],
)
def test_a_newer_client_is_told_what_the_worker_does_not_know(stage, changes, error, says):
    worker = stage.worker(**CALM)
    strange = send(stage, "strange", **changes)
    with Client(stage.redis_url, settings=stage.settings) as client:
        with pytest.raises(error, match=says.replace("(", r"\(")):
            client.job(strange).result(timeout=60)
        plain = send(stage, "plain")
        assert client.job(plain).result(timeout=60).top.label == "1"
    assert worker.alive
    fated = {"strange": [2], plain: [1]}
    assert stage.state(strange) is JobState.FAILED
    stage.account(f"newer client: {next(iter(changes))}", fated, faults=0, fated=1)


def rewrite(stage, key, field, **more):
    document = json.loads(stage.redis.hget(key, field))
    stage.redis.hset(key, field, json.dumps({**document, **more}))


def test_an_older_client_reads_what_a_newer_worker_announces(stage):
    worker = stage.worker(VISIONPIPE_RENEW_S="30", **CALM)
    rewrite(stage, "vp:workers", worker.worker, shoe_size=44, lanes=["interactive", "bulk"])
    with Client(stage.redis_url, settings=stage.settings) as client:
        assert [record.worker for record in client.workers()] == [worker.worker]
        rewrite(stage, "vp:workers", worker.worker, lanes=["interactive", "bulk", "express"])
        assert [record.worker for record in client.workers()] == [worker.worker]
        assert client.classify(picture(3), model="probe", timeout=60).top.label == "3"
        stage.redis.hset("vp:workers", worker.worker, '{"worker": 1}')
        assert client.workers() == [], "an announcement that says nothing is left out"


def test_an_older_client_says_that_it_cannot_read_a_newer_result(stage):
    stage.worker(**CALM)
    job = stage.submit(1, 2)
    stage.ended(job)
    item = json.loads(stage.redis.hget(f"vp:items:{job}", "0"))
    item["result"]["halo"] = 1
    stage.redis.hset(f"vp:items:{job}", "0", json.dumps(item))
    with (
        Client(stage.redis_url, settings=stage.settings) as client,
        pytest.raises(InternalError, match="run the same version on client and worker"),
    ):
        client.job(job).results(timeout=10)


def test_what_a_newer_worker_adds_to_a_record_does_not_keep_an_older_client_from_it(stage):
    stage.worker(**CALM)
    job = stage.submit(1, 2)
    stage.ended(job)
    key = f"vp:job:{job}"
    rewrite(stage, key, "model_info", watts=350)
    stage.redis.hset(key, "progress", json.dumps({"done": 2, "total": 2, "mood": "good"}))
    stage.redis.hset(key, "colour", "red")
    with Client(stage.redis_url, settings=stage.settings) as client:
        envelope = client.job(job).wait(timeout=10)
        assert envelope.model is not None
        assert envelope.model.name == "probe"
        assert client.job(job).progress().done == 2
        stage.redis.hset(key, "error", json.dumps({"code": "melted", "message": "It melted.", "severity": 9}))
        assert client.job(job).record().error.code == "melted"


def test_scripts_of_two_versions_work_on_one_job(stage):
    """A client of another version brings scripts of its own, under hashes of their own."""
    stage.worker(**CALM)
    other = script("cancel").text + "\n-- of another version"
    stage.probe.switch("block", "forward", 2)
    job = stage.submit(1, 2)
    stage.logged("block forward 2")
    assert stage.redis.eval(other, 0, job) == b"running"
    stage.probe.switch("block", "forward", 2, on=False)
    wait_for("the end", lambda: stage.state(job).ended)
    stage.account("two versions of the scripts", {job: [1, 2]}, faults=0)
