"""A ticket is byte for byte what Celery itself would have sent, and a real Celery worker takes it."""

import json
import threading
import time

import pytest
import redis as redis_py
from celery.contrib.testing.worker import start_worker
from kombu import Connection
from kombu.entity import Queue as Declaration

from visionpipe.queue import TASK_NAME, calls, keys, make_app, ticket_template
from visionpipe.queue.tickets import broker_url
from visionpipe.schemas.jobs import Lane

LIST = keys.lane_list("net", Lane.BULK)
VARYING = {"delivery_tag", "origin", "reply_to"}
"""Fresh for each message, or the sender's own; nobody replies through Celery."""


def without_varying(ticket):
    """Everything but what differs from message to message."""
    if isinstance(ticket, dict):
        return {name: without_varying(value) for name, value in ticket.items() if name not in VARYING}
    return ticket


def parsed(raw):
    ticket = json.loads(raw)
    return {**ticket, "body": json.loads(ticket["body"])}


def test_a_ticket_is_what_celery_would_have_sent(queue):
    app = make_app(queue.settings.redis_url)
    app.send_task(TASK_NAME, args=("job-0",), queue=LIST, task_id="job-0", ignore_result=True)
    queue.submit(1, job="job-0")
    ours, celerys = (parsed(raw) for raw in queue.redis.lrange(LIST, 0, -1))
    assert without_varying(ours) == without_varying(celerys)
    assert ours["properties"]["delivery_tag"] != celerys["properties"]["delivery_tag"]
    assert ours["headers"]["origin"].partition("@")[2] == celerys["headers"]["origin"].partition("@")[2]


def test_every_placeholder_of_the_template_is_filled(queue):
    assert ticket_template().count("__VP_JOB__") >= 3
    queue.submit(1, model=f"net@{'a' * 12}", lane=Lane.INTERACTIVE)
    (raw,) = queue.redis.lrange(keys.lane_list(f"net@{'a' * 12}", Lane.INTERACTIVE), 0, -1)
    assert b"__VP_" not in raw


@pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")
def test_a_real_celery_worker_takes_tickets_of_submit_release_and_sweep(queue):
    app = make_app(queue.settings.redis_url, polling_interval=0.1)
    app.conf.task_queues = [Declaration(LIST, exchange=None, routing_key=LIST)]
    taken, enough = [], threading.Event()

    @app.task(name=TASK_NAME, ignore_result=True, shared=False)
    def accept(job):
        taken.append(job)
        if len(taken) == 3:
            enough.set()

    released = queue.held(1)
    queue.redis.delete(LIST)
    queue.do(calls.release(released.job, released.token))
    jobs = [released.job, queue.submit(1), queue.submit(1, job="a.b-c_D")]
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=30):
        assert enough.wait(20)
    assert sorted(taken) == sorted(jobs)
    assert queue.redis.llen(LIST) == 0
    # Nor does kombu note what is in flight: that would cost two round trips for each ticket.
    assert not list(queue.redis.scan_iter("*unacked*"))


@pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")
def test_tickets_are_read_on_while_all_threads_claim(queue):
    app = make_app(queue.settings.redis_url, polling_interval=0.1)
    app.conf.task_queues = [Declaration(LIST, exchange=None, routing_key=LIST)]
    taken, gate = [], threading.Event()

    @app.task(name=TASK_NAME, ignore_result=True, shared=False)
    def accept(job):
        taken.append(job)
        gate.wait(60)

    jobs = [queue.submit(1) for _ in range(4)]
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=30):
        # A loop that stopped reading here would go on only when something else woke it, after seconds.
        until(lambda: queue.redis.llen(LIST) == 0)
        assert len(taken) == 2
        gate.set()
        until(lambda: sorted(taken) == sorted(jobs))


def until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("unix:///run/s.sock", "redis+socket:///run/s.sock"),
        ("unix:///run/s.sock?db=3", "redis+socket:///run/s.sock?virtual_host=3"),
        ("rediss://:pw@h", "rediss://:pw@h?ssl_cert_reqs=required"),
        ("rediss://h?ssl_ca_certs=/ca.crt", "rediss://h?ssl_ca_certs=%2Fca.crt&ssl_cert_reqs=required"),
    ],
)
def test_a_redis_url_is_spelled_for_kombu_with_certificates_checked(url, expected):
    assert broker_url(url) == expected


def test_both_spellings_reach_the_same_database(queue):
    url = queue.settings.redis_url + "?db=3"
    with Connection(broker_url(url)) as connection:
        client = connection.default_channel.client
        client.set("vp:kombu", "was here")
    with redis_py.Redis.from_url(url) as ours:
        assert ours.get("vp:kombu") == b"was here"
