"""The Celery side of the queue: the app, its settings, and tickets.

A ticket is a Celery message that says "job X may be waiting"; the job's record alone says whether it is.
"""

from __future__ import annotations

import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from visionpipe.redis_url import check_redis_url

if TYPE_CHECKING:
    from celery import Celery

TASK_NAME = "visionpipe.job"
"""The one Celery task; its argument is a job id."""


def broker_url(redis_url: str) -> str:
    """Spell a Redis URL the way kombu does, with certificates always checked.

    Raises:
        ValueError: It cannot be used.
    """
    parts = urlsplit(check_redis_url(redis_url))
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        if "db" in query:
            query["virtual_host"] = query.pop("db")
        return f"redis+socket://{parts.netloc}{parts.path}" + (f"?{urlencode(query)}" if query else "")
    if parts.scheme == "rediss":
        query.setdefault("ssl_cert_reqs", "required")
    return urlunsplit(parts._replace(query=urlencode(query)))


_importing = threading.Lock()


def make_app(redis_url: str, **transport_options: Any) -> Celery:
    """Make the Celery app; nothing connects until it is used.

    Args:
        redis_url: As in the settings.
        transport_options: Added to kombu's, such as ``queue_order_strategy``.
    """
    # Celery's lazy module is half-made while another thread is the first to import it.
    with _importing:
        from celery import Celery

    app = Celery("visionpipe", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # The worker acknowledges each ticket as it takes it, and bounds by itself how many it takes.
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_create_missing_queues=True,
        # Without socket_timeout a black-holed connection leaves a worker deaf for ever.
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "health_check_interval": 5,
            "priority_steps": [0],
            "body_encoding": "utf-8",
            # kombu's notes of tickets in flight: a full Redis refuses them, and the sweep writes lost tickets again.
            "ack_emulation": False,
            **({} if redis_url.startswith("unix:") else {"socket_keepalive": True}),
            **transport_options,
        },
    )
    return app


@cache
def ticket_template() -> str:
    """Build a ticket with Celery's own message maker, with placeholders that submit and sweep fill in.

    Celery's maker takes most of a millisecond; a template costs it once per process.
    """
    from kombu.serialization import dumps

    app = make_app("redis://")
    message = app.amqp.as_task_v2("__VP_JOB__", TASK_NAME, args=("__VP_JOB__",), ignore_result=True)
    content_type, content_encoding, body = dumps(message.body, serializer="json")
    return json.dumps(
        {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": message.headers,
            "properties": {
                **message.properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "__VP_QUEUE__"},
                "priority": 0,
                "body_encoding": "utf-8",
                "delivery_tag": "__VP_TAG__",
            },
        }
    )
