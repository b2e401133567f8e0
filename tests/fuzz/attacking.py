"""Writes nonsense into a queue, and sees what the worker makes of it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz import hostile
from tests.fuzz.service import Service
from visionpipe.schemas.jobs import Lane

SILENT = {
    "unknown job",
    "forged stops",
    "forged tokens",
}
"""What is dropped as a matter of course: tickets are doubled and late in honest days too."""
PATIENCE_S = 15.0


def attacks() -> Iterator[tuple[str, hostile.Attack]]:
    """Every attack with its name."""
    for name, raw in hostile.RAW_TICKETS.items():
        yield f"ticket: {name}", lambda service, raw=raw: hostile.push(service, raw)  # type: ignore[misc]
    for name, changes in hostile.FIELDS.items():
        yield f"record: {name}", lambda service, changes=changes: _corrupt(service, changes)  # type: ignore[misc]
    for name, attack in hostile.OTHERS.items():
        yield f"other: {name}", attack


def _corrupt(service: Service, changes: dict[str, object]) -> None:
    hostile.corrupt(service, changes)


def withstand(service: Service, name: str, attack: hostile.Attack) -> str:
    """Attack, then have honest jobs done on both lanes; gives what the worker said meanwhile.

    Raises:
        AssertionError: The worker died, or did not serve.
    """
    begun = len(service.log())
    attack(service)
    service.wait_for("the ticket to be taken", lambda: not service.redis.llen(f"vp:{service.model}:bulk"), PATIENCE_S)
    for lane in Lane:
        service.check_serves(lane, PATIENCE_S)
    return service.log()[begun:]


def aftermath(service: Service) -> list[str]:
    """What is wrong in a queue that was attacked, once every lease has run out: jobs that nobody ends."""

    def settled() -> bool:
        leases = service.redis.zcard("vp:leases")
        return not leases and not service.redis.zcard(f"vp:queued:{service.model}:bulk")

    try:
        service.wait_for("the end of all leases", settled, 60)
    except AssertionError as error:
        return [str(error)]
    return []
