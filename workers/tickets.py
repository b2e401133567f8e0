"""Reads tickets off the lists, and takes nothing from them but the id of a job.

Whoever can write to Redis can write anything into a list. Celery and kombu trust what they read: text that is no JSON
ends the worker, a compressed body unpacks to gigabytes, headers delay, expire or chain. So a ticket is checked before
they see it, and they are given a new one with the same job id.
"""

from __future__ import annotations

import base64
import logging
import re
import uuid
from typing import Any, NamedTuple, Self

from kombu.connection import Connection
from kombu.transport import redis as transport
from pydantic_core import from_json
from redis import Redis

from visionpipe.queue import ticket_template
from visionpipe.schemas.base import ID_PATTERN
from visionpipe.schemas.jobs import Lane

logger = logging.getLogger("visionpipe.tickets")

MAX_BYTES = 16_384
"""Ours take a tenth of it."""
SHOWN = 80

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Ticket(NamedTuple):
    """Says that a job may be waiting."""

    job: str
    lane: Lane

    @classmethod
    def of(cls, message: Any) -> Self:
        """Take it out of a message that was written anew here."""
        return cls(message.headers["id"], lane_of(message.delivery_info["routing_key"]))


def lane_of(queue: str) -> Lane:
    """The lane of a list of tickets."""
    return Lane(queue.rpartition(":")[2])


def job_of(ticket: bytes) -> str:
    """Read the job's id out of a ticket.

    Raises:
        ValueError: It is none.
    """
    if len(ticket) > MAX_BYTES:
        raise ValueError(f"it has {len(ticket)} bytes, more than {MAX_BYTES}")
    try:
        message = from_json(ticket)
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        job = from_json(body)[0][0]
    except _UNREADABLE as error:
        raise ValueError("it is no message of ours") from error
    if not isinstance(job, str) or re.fullmatch(ID_PATTERN, job) is None:
        raise ValueError("it names no job")
    return job


def rewritten(ticket: bytes, queue: bytes) -> bytes:
    """Write a ticket anew, for the same job.

    Raises:
        ValueError: It is none.
    """
    fresh = ticket_template().replace("__VP_JOB__", job_of(ticket))
    return fresh.replace("__VP_QUEUE__", queue.decode()).replace("__VP_TAG__", uuid.uuid4().hex).encode()


class _TicketClient(Redis):
    """Gives kombu tickets alone; anything else is as if nothing had come."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        queue, ticket = answer
        try:
            return queue, rewritten(ticket, queue)
        except ValueError as error:
            logger.warning("dropped from %s: %.*r is no ticket: %s", queue.decode(), SHOWN, ticket[:SHOWN], error)
            return None


class _Channel(transport.Channel):
    """Reads and writes nothing: a Redis without memory would refuse it, which ends the worker that could empty it."""

    def _queue_bind(self, *_: Any) -> None:
        """Leave kombu's table of bindings alone; tickets lie in their list already."""

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[no-untyped-call]
        return _TicketClient


class _Transport(transport.Transport):
    Channel = _Channel


class TicketConnection(Connection):
    """A broker connection on which nothing but tickets arrives."""

    def get_transport_cls(self) -> type[_Transport]:
        """See ``kombu.Connection``."""
        return _Transport
