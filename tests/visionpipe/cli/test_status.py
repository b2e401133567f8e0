"""The status command, on a real Redis."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from visionpipe.cli.app import app
from visionpipe.cli.redis_at import RedisAt, find_redis, running_embedded
from visionpipe.embedded import embedded_redis
from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.images import UrlImage
from visionpipe.schemas.jobs import Lane
from visionpipe.settings import Settings
from visionpipe.tasks import build_request


def status(settings: Settings, *words: str):
    return CliRunner().invoke(app, ["status", "--redis-url", str(settings.redis_url), *words])


@pytest.fixture
def three_waiting(settings: Settings, fake_worker) -> None:
    """A job of three images that no worker takes."""
    fake_worker.hold()
    image = UrlImage(url="https://example.org/a.png")
    request = build_request("classification", model="lenet-digits", images=[image] * 3)
    with connect(str(settings.redis_url)) as redis:
        run(redis, calls.submit(request, job="j", lane=Lane.BULK, client="c", settings=settings))


def test_it_shows_workers_queues_and_accounts(settings, three_waiting):
    told = status(settings)
    assert told.exit_code == 0
    for part in ("1 worker, 3 images waiting, the oldest job for 0", "fake-1", "bulk", "submitted"):
        assert part in told.stdout, told.stdout


def test_json_has_everything_in_numbers(settings, three_waiting):
    found = json.loads(status(settings, "--json").stdout)
    assert found["redis"]["embedded"] is False
    assert [worker["worker"] for worker in found["workers"]] == ["fake-1"]
    bulk = next(queue for queue in found["queues"] if queue["lane"] == "bulk")
    assert (bulk["target"], bulk["queued_jobs"], bulk["queued_items"]) == ("lenet-digits", 1, 3)
    assert bulk["oldest_wait_s"] >= 0
    assert found["accounts"]["lenet-digits"]["open"] == 3


def test_ready_is_an_exit_status(settings, fake_worker):
    assert status(settings, "--ready", "lenet-digits").exit_code == 0
    assert status(settings, "--ready", "lenet-digits@000000000000").exit_code == 0
    assert json.loads(status(settings, "--ready", "lenet-digits", "--json").stdout)["workers"] == ["fake-1"]
    told = status(settings, "--ready", "resnet50")
    assert told.exit_code == 1
    assert "models with workers: lenet-digits" in told.stderr
    assert "visionpipe worker resnet50" in told.stderr


def test_an_empty_queue_says_how_to_start(settings):
    told = status(settings)
    assert told.exit_code == 0
    assert "visionpipe worker MODEL" in told.stdout


def test_a_redis_that_is_not_there_is_an_error_that_names_no_password():
    told = CliRunner().invoke(app, ["status", "--redis-url", "redis://u:secret@127.0.0.1:1/0"])
    assert told.exit_code == 1
    assert "queue_unavailable" in told.stderr
    assert "secret" not in told.output
    assert RedisAt("redis://u:secret@127.0.0.1:1/0", embedded=False).label == "redis://127.0.0.1:1"


def test_nothing_is_started_only_to_look(tmp_path):
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(QueueUnavailableError, match="visionpipe up"):
        find_redis(settings)
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_redis_that_runs_is_found(tmp_path):
    settings = Settings(data_dir=tmp_path)
    with embedded_redis(settings) as url:
        assert running_embedded(settings) == url
        assert find_redis(settings) == RedisAt(url, embedded=True)


def test_two_versions_of_a_model_are_told_apart(settings, fake_worker):
    with connect(str(settings.redis_url)) as redis:
        (record,) = run(redis, calls.workers())
        other = record.model_copy(
            update={"worker": "fake-2", "digest": "1" * 12, "lanes": [Lane.BULK], "state": "draining"}
        )
        assert "@000000000000" not in status(settings).stdout
        run(redis, calls.announce(other, settings.model_copy(update={"renew_s": 100})))
    told = status(settings).stdout
    for part in ("2 workers", "lenet-digits@000000000000", "lenet-digits@111111111111", "draining", "interactive bulk"):
        assert part in told, told
