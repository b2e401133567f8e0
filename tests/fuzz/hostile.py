"""What a client without manners could write straight into Redis."""

from __future__ import annotations

import base64
import json
import pickle
import time
import uuid
import zlib
from collections.abc import Callable

from tests.fuzz.service import MODEL, Service
from visionpipe.queue import ticket_template
from visionpipe.schemas.jobs import Lane

Attack = Callable[[Service], None]


class Bomb:
    """A pickle that would show that it was opened."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('a pickle was opened')",)


def ticket(job: str, **changes: object) -> dict[str, object]:
    """A genuine message; changes replace its top-level fields."""
    made: dict[str, object] = json.loads(
        ticket_template().replace("__VP_JOB__", job).replace("__VP_QUEUE__", f"vp:{MODEL}:bulk")
    )
    made["properties"]["delivery_tag"] = uuid.uuid4().hex  # type: ignore[index]
    return {**made, **changes}


def with_headers(job: str, **headers: object) -> dict[str, object]:
    """A message with other headers."""
    made = ticket(job)
    made["headers"] = {**made["headers"], **headers}  # type: ignore[dict-item]
    return made


def with_properties(job: str, **properties: object) -> dict[str, object]:
    """A message with other properties."""
    made = ticket(job)
    made["properties"] = {**made["properties"], **properties}  # type: ignore[dict-item]
    return made


def push(service: Service, raw: object, lane: Lane = Lane.BULK) -> None:
    """Write a ticket."""
    data = raw if isinstance(raw, (bytes, str)) else json.dumps(raw)
    service.redis.lpush(f"vp:{MODEL}:{lane}", data)


def _compressed() -> dict[str, object]:
    """Eight kilobytes, few enough for a ticket, that unpack to eight megabytes."""
    made = with_headers("none", compression="application/x-gzip")
    body = base64.b64encode(zlib.compress(bytes(2**23), 9)).decode()
    return {**made, "body": body, "properties": {**made["properties"], "body_encoding": "base64"}}  # type: ignore[dict-item]


def _pickled() -> dict[str, object]:
    body = base64.b64encode(pickle.dumps(([Bomb()], {}, {}))).decode()
    made = with_properties("none", body_encoding="base64")
    return {**made, "body": body, "content-type": "application/x-python-serialize", "content-encoding": "binary"}


RAW_TICKETS: dict[str, object] = {
    "nothing": b"",
    "junk": b"\xff\xfe\x00junk",
    "text": "DROP TABLE jobs",
    "half JSON": '{"body": "W1s',
    "null": None,
    "a number": 7,
    "a list": [1, 2, 3],
    "an empty object": {},
    "deep nesting": "[" * 100_000,
    "deep objects": '{"body":' * 50_000,
    "a megabyte": json.dumps(ticket("x" * 1_000_000)),
    "forty megabytes": b'{"properties": "' + b"x" * 40_000_000 + b'"}',
    "no properties": ticket("none", properties=None),
    "no delivery tag": {**ticket("none"), "properties": {}},
    "properties are a list": ticket("none", properties=[1]),
    "no headers": ticket("none", headers=None),
    "headers are text": ticket("none", headers="task"),
    "no body": ticket("none", body=None),
    "body is a number": ticket("none", body=5),
    "body is junk": ticket("none", body="\u2028{{{"),
    "body without arguments": ticket("none", body="[]"),
    "argument is an object": ticket("none", body=json.dumps([[{"job": "none"}], {}, {}])),
    "too many arguments": ticket("none", body=json.dumps([["a", "b", "c"], {"d": 1}, {}])),
    "keyword arguments": ticket("none", body=json.dumps([[], {"job": "none", "self": 1}, {}])),
    "job id with a colon": ticket("none", body=json.dumps([["a:b"], {}, {}])),
    "job id with a newline": ticket("none", body=json.dumps([["a\n"], {}, {}])),
    "job id of a megabyte": ticket("none", body=json.dumps([["a" * 2**20], {}, {}])),
    "unknown job": ticket("nobody-knows-this"),
    "another task": with_headers("none", task="celery.backend_cleanup"),
    "an unknown task": with_headers("none", task="os.system"),
    "a task that is no text": with_headers("none", task=["visionpipe.job"]),
    "wrong eta": with_headers("none", eta="never"),
    "eta in a thousand years": with_headers("none", eta="3025-01-01T00:00:00"),
    "wrong expiry": with_headers("none", expires="yesterday"),
    "wrong time limits": with_headers("none", timelimit="x"),
    "negative retries": with_headers("none", retries=-(10**12)),
    "pickle": _pickled(),
    "yaml": ticket("none", **{"content-type": "application/x-yaml"}),
    "unknown content type": ticket("none", **{"content-type": "x/y"}),
    "unknown encoding": ticket("none", **{"content-encoding": "klingon"}),
    "unknown body encoding": with_properties("none", body_encoding="rot13"),
    "unknown compression": with_headers("none", compression="x/y"),
    "delivery tag is an object": with_properties("none", delivery_tag={"a": 1}),
    "priority is text": with_properties("none", priority="high"),
    "reply to somebody": with_properties("none", reply_to="vp:lenet-digits:bulk", correlation_id="x"),
    "callbacks": ticket(
        "none", body=json.dumps([["none"], {}, {"callbacks": [{"task": "visionpipe.job"}], "chain": 5}])
    ),
    "numbers that JSON has not": '{"body": NaN, "properties": Infinity}',
}
"""Name → what is pushed onto a lane."""

HONEST = {
    "no delivery tag", "no headers", "headers are text", "too many arguments", "another task", "an unknown task",
    "a task that is no text", "wrong eta", "eta in a thousand years", "wrong expiry", "wrong time limits",
    "negative retries", "yaml", "unknown content type", "unknown encoding", "unknown body encoding",
    "unknown compression", "delivery tag is an object", "priority is text", "reply to somebody", "callbacks",
}  # fmt: skip
"""Of those, the tickets that name a job after all: it is looked up, and what else they say is passed over."""

FIELDS: dict[str, dict[str, object]] = {
    "total is text": {"total": "many"},
    "total is missing": {"total": None},
    "total is negative": {"total": -5},
    "total is a billion": {"total": 10**9},
    "total is more than the images": {"total": 5},
    "total is less than the images": {"total": 1},
    "total is not a number": {"total": "nan"},
    "finished is text": {"finished": "x"},
    "finished is beyond the total": {"finished": 10**6},
    "attempts is text": {"attempts": "often"},
    "attempts is missing": {"attempts": None},
    "blobs is endless": {"blobs": "1e300"},
    "blobs is ten billion": {"blobs": 10**10},
    "blobs is text": {"blobs": "x"},
    "no lane": {"lane": None},
    "no model": {"model": None},
    "another lane": {"lane": "express"},
    "no life": {"ttl_ms": "forever"},
    "deadline is text": {"deadline_at": "tomorrow"},
    "submitted is text": {"submitted_at": "today"},
    "unknown state": {"state": "flying"},
    "no request": {"request": None},
    "request is empty": {"request": ""},
    "request is junk": {"request": b"\xff\x00\xfe"},
    "request is a list": {"request": "[]"},
    "request nests deeply": {"request": "[" * 200_000},
    "request of an unknown task": {"request": '{"task": "telepathy"}'},
    "request of a task that is an object": {"request": '{"task": {"a": 1}}'},
    "request of forty megabytes": {"request": '{"task": "classification", "x": "' + "x" * 40_000_000 + '"}'},
    "client with a colon": {"client": "a:b\r\nc"},
    "mark is text": {"mark": "x"},
    "cancelled at text": {"cancel": "1", "cancel_at": "x"},
}
"""Name → fields of a queued job's record that are overwritten."""


def corrupt(service: Service, changes: dict[str, object], *, items: int = 2) -> str:
    """Write a job whose record is wrong, with its ticket."""
    # Written while nothing is served, so that the worker meets the wrong record and not the right one.
    hidden = service.submit_hidden(items)
    key = f"vp:job:{hidden}"
    for name, value in changes.items():
        if value is None:
            service.redis.hdel(key, name)
        else:
            service.redis.hset(key, name, value)  # type: ignore[arg-type]
    push(service, ticket(hidden))
    return hidden


def _wrong_types(service: Service) -> None:
    for name in ("vp:job:wrong-type", "vp:items:wrong-type"):
        service.redis.rpush(name, "x")
    push(service, ticket("wrong-type"))
    service.redis.zadd("vp:leases", {"wrong-type": 1, "no-such-job": 1, "a:b:c": 1, "\n": 1})
    service.redis.zadd("vp:deadlines", {"wrong-type": 1, "no-such-job": 1})
    service.redis.zadd(f"vp:queued:{MODEL}:bulk", {"wrong-type": 1, "no-such-job": 2})


def _wrong_lanes(service: Service) -> None:
    service.redis.sadd("vp:lanes", "no-colon", "", ":", "a:b:c:d", "x:bulk", "\xff\xfe")
    service.redis.set("vp:x:bulk", "no list")
    service.redis.set("vp:queued:no-colon", "no set")
    service.redis.hset("vp:depth", "no-colon", "deep")
    service.redis.hset("vp:short", "x:bulk", "long")


def _wrong_workers(service: Service) -> None:
    soon = time.time() * 1000 + 3000
    service.redis.hset(
        "vp:workers", mapping={"ghost": "junk", "list": "[]", "number": "5", "half": '{"worker": "half"}'}
    )
    service.redis.zadd("vp:beats", dict.fromkeys(("ghost", "list", "number", "half", "absent"), soon))
    service.redis.hset("vp:beaten", "half", "never")


def _forged_control(service: Service) -> None:
    service.redis.rpush("vp:ctl:victim", "no-such-job", b"\xff\xfe", "x" * 100_000)
    service.redis.expire("vp:ctl:victim", 5)


def _forged_tokens(service: Service) -> None:
    """Commit, release, renew and mark a job that another holds."""
    from visionpipe.queue import calls, run
    from visionpipe.schemas.jobs import JobState

    job = service.submit(lane=Lane.BULK, items=3)
    for token in ("", "guess", "0" * 32, "*"):
        run(service.redis, calls.commit(job, token, [(0, True, b'{"forged": true}')], final=JobState.FAILED))
        run(service.redis, calls.release(job, token))
        run(service.redis, calls.mark(job, token, 10**9))
        run(service.redis, calls.renew([(job, token)], service.settings))
    record, items = service.outcome(job)
    assert record.state == "done"
    assert all(item["result"]["classes"] for item in items)
    # One that ended remembers the token of its last commit; a guess is not it.
    assert not run(service.redis, calls.commit(job, "guess", []))


OTHERS: dict[str, Attack] = {
    "keys of the wrong type": _wrong_types,
    "lanes that are none": _wrong_lanes,
    "workers that are none": _wrong_workers,
    "forged stops": _forged_control,
    "forged tokens": _forged_tokens,
    "a bomb": lambda service: push(service, _compressed()),
}
"""Name → anything else."""
