"""The queue: one job record, tickets that point at it, and the few scripts that move it."""

from visionpipe.queue import calls, keys
from visionpipe.queue.call import Call, aconnect, arun, connect, run
from visionpipe.queue.records import Accounts, Claim, QueueStatus, RawEnvelope, Submitted, Swept, news, told_envelope
from visionpipe.queue.tickets import TASK_NAME, make_app, ticket_template

__all__ = [
    "TASK_NAME",
    "Accounts",
    "Call",
    "Claim",
    "QueueStatus",
    "RawEnvelope",
    "Submitted",
    "Swept",
    "aconnect",
    "arun",
    "calls",
    "connect",
    "keys",
    "make_app",
    "news",
    "run",
    "ticket_template",
    "told_envelope",
]
