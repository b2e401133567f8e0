"""A worker process under drawn requests and under a client that writes into Redis whatever it likes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fuzz import hostile
from tests.fuzz.asking import ask
from tests.fuzz.attacking import SILENT, aftermath, attacks, withstand
from tests.fuzz.service import Service
from tests.helpers import acl
from visionpipe.client import Client
from visionpipe.errors import VisionPipeError
from visionpipe.queue import calls, make_app, run

SEED, CASES = 11, 64
ATTACKS = dict(attacks())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as started:
        yield started


def test_every_request_that_fits_or_nearly_fits_ends_with_a_result_or_a_typed_error(service):
    asked = ask(service, CASES, seed=SEED)
    print(f"\n{asked.cases} requests: valid {dict(asked.valid)}, nearly {dict(asked.near_valid)}")
    assert asked.untyped == []
    assert asked.cases == CASES
    assert asked.valid["done"] >= 1
    assert asked.near_valid["invalid_request"] > CASES / 8
    service.check_serves()


@pytest.mark.parametrize("name", ATTACKS)
def test_whatever_is_written_into_redis_the_worker_lives_and_serves(service, name):
    pid = service.pid
    said = withstand(service, name, ATTACKS[name])
    assert (service.alive, service.pid) == (True, pid)
    assert len(said) < 20_000, "a hostile client could fill the disk"
    assert "Traceback" not in said
    dropped = "is no ticket" in said or "damaged or none of ours" in said or "broken records" in said
    assert dropped or name.startswith(("record:", "other:")) or name.partition(": ")[2] in hostile.HONEST | SILENT


@pytest.mark.skipif(acl.WANTED, reason="under the ACL such a message cannot even be sent")
def test_remote_control_reaches_nobody(service):
    app = make_app(service.url)
    assert app.control.ping(timeout=0.5) == []
    for order in (app.control.shutdown, app.control.purge, lambda: app.control.pool_restart(reload=True)):
        order()
    service.check_serves()
    assert service.alive


def test_no_credentials_of_a_url_are_in_the_log(service):
    url = "http://someone:hunter2@127.0.0.1/x.png?signature=hunter3"
    request = {"task": "classification", "model": service.model, "images": [{"kind": "url", "url": url}], "options": {}}
    _, items = service.outcome(service.submit(request_text=json.dumps(request)))
    assert items[0]["error"]["code"] == "url_refused"
    for secret in ("hunter2", "hunter3", "someone"):
        assert secret not in items[0]["error"]["message"]
        assert secret not in service.log()


def test_after_all_of_that_nothing_is_held_and_everybody_can_look(service):
    """Runs last: what the attacks left behind has been ended or set aside."""
    assert aftermath(service) == []
    with Client(service.url, settings=service.settings) as client:
        assert [worker.worker for worker in client.workers()] == ["victim"]
        assert service.model in client.accounts()
        client.queues()
    for job in (key.decode().removeprefix("vp:job:") for key in service.redis.scan_iter("vp:job:*")):
        with suppress(VisionPipeError):
            run(service.redis, calls.read(job))
    service.check_serves()
