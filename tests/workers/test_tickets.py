"""Of a ticket nothing but the job's id gets past the door; the attacks of ``tests/fuzz`` try the same on a process."""

from __future__ import annotations

import json

import pytest
from kombu.exceptions import OperationalError

from tests.fuzz.hostile import HONEST, RAW_TICKETS
from visionpipe.queue import TASK_NAME, make_app
from workers.tickets import MAX_BYTES, TicketConnection, job_of, rewritten

LIST = "vp:lenet-digits:bulk"


def raw(ticket: object) -> bytes:
    if isinstance(ticket, bytes):
        return ticket
    return (ticket if isinstance(ticket, str) else json.dumps(ticket)).encode()


@pytest.mark.parametrize("name", sorted(HONEST | {"unknown job"}))
def test_a_ticket_is_written_anew_for_the_job_it_names(name):
    fresh = json.loads(rewritten(raw(RAW_TICKETS[name]), LIST.encode()))
    job = job_of(raw(RAW_TICKETS[name]))
    assert json.loads(fresh["body"])[0] == [job]
    assert fresh["headers"]["task"] == TASK_NAME
    assert (fresh["headers"]["id"], fresh["headers"]["eta"], fresh["headers"]["expires"]) == (job, None, None)
    assert "compression" not in fresh["headers"]
    assert json.loads(fresh["body"])[2] == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert fresh["properties"]["delivery_info"]["routing_key"] == LIST
    assert fresh["properties"]["body_encoding"] == "utf-8"
    assert fresh["content-type"] == "application/json"


@pytest.mark.parametrize("name", sorted(RAW_TICKETS.keys() - HONEST - {"unknown job"}))
def test_what_is_no_ticket_is_told_apart(name):
    with pytest.raises(ValueError, match=r"it (has|is|names)"):
        rewritten(raw(RAW_TICKETS[name]), LIST.encode())


def test_every_rewritten_ticket_can_be_acknowledged_by_itself():
    ticket = raw(RAW_TICKETS["unknown job"])
    tags = {json.loads(rewritten(ticket, LIST.encode()))["properties"]["delivery_tag"] for _ in range(50)}
    assert len(tags) == 50


def test_the_longest_job_id_fits_by_far():
    ticket = raw(RAW_TICKETS["unknown job"]).replace(b"nobody-knows-this", b"j" * 128)
    assert job_of(ticket) == "j" * 128
    assert len(ticket) < MAX_BYTES / 4


def test_a_server_that_is_away_is_still_told(tmp_path):
    app = make_app(f"unix://{tmp_path}/none.sock")
    app.amqp.Connection = TicketConnection
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=True)
