"""Sends drawn requests through the real queue, and counts how they end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.service import Service
from tests.fuzz.wishes import DEADLINE_S, near_valid, valid

TOGETHER = 8
"""Requests that are under way at once."""
PATIENCE_S = 30.0


@dataclass
class Asked:
    """What became of so many requests."""

    valid: Counter[str] = field(default_factory=Counter)
    """Outcomes of requests that fit the schemas: the codes of their items and jobs, or ``done``."""
    near_valid: Counter[str] = field(default_factory=Counter)
    """The same of those that nearly fit."""
    untyped: list[str] = field(default_factory=list)
    """Requests that ended as an internal error, or not at all."""

    @property
    def cases(self) -> int:
        """Requests in all."""
        return self.valid.total() + self.near_valid.total()


def ask(service: Service, cases: int, *, seed: int) -> Asked:
    """Send requests, half of them valid, and wait for the end of each.

    Args:
        service: Whom to ask.
        cases: About how many.
        seed: Of what is drawn.
    """
    asked = Asked()
    kinds = {True: valid().map(json.dumps), False: near_valid()}
    document = st.booleans().flatmap(lambda fits: st.tuples(st.just(fits), kinds[fits]))
    documents = st.lists(document, min_size=TOGETHER, max_size=TOGETHER)

    @seeded(seed)
    @settings(
        max_examples=max(1, cases // TOGETHER), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=False,
    )  # fmt: skip
    @given(documents)
    def send(drawn: list[tuple[bool, str]]) -> None:
        jobs = [
            (fits, text, service.submit(request_text=text, items=_items(text), deadline_s=DEADLINE_S))
            for fits, text in drawn
        ]
        for fits, text, job in jobs:
            try:
                _note(asked, fits, text, *service.outcome(job, PATIENCE_S))
            except AssertionError as error:
                asked.untyped.append(f"{text}: {str(error)[:500]}")
                if not service.alive:
                    raise

    send()
    return asked


def _items(text: str) -> int:
    """How many items an honest client would have told the queue of."""
    document = json.loads(text)
    images = document.get("images") if isinstance(document, dict) else None
    return max(1, len(images)) if isinstance(images, list) else 1


def _note(asked: Asked, fits: bool, text: str, record: object, items: list[dict[str, object]]) -> None:
    error = getattr(record, "error", None)
    codes = [item["error"]["code"] if item.get("error") else "done" for item in items]  # type: ignore[index]
    codes += [error.code] if error else []
    outcome = min(codes, key=lambda code: code == "done") if codes else str(getattr(record, "state", "?"))
    (asked.valid if fits else asked.near_valid)[outcome] += 1
    if "internal_error" in codes or "poison" in codes:
        asked.untyped.append(text)
