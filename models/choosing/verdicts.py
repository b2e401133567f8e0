"""Which candidate is best under a budget, which ones nothing beats, and why each of the others lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.choosing.candidates import Candidate


@dataclass(frozen=True)
class Budget:
    """What a network may cost, and how good it must be."""

    gflops: float | None = None
    """10^9 multiply-adds for one picture."""
    params: float | None = None
    """Parameters."""
    latency_ms: float | None = None
    """Milliseconds for a batch on this device."""
    min_accuracy: float | None = None
    """Of the metric."""


@dataclass(frozen=True)
class Cost:
    """One thing that networks cost."""

    name: str
    """The unit as people read it."""
    value: Callable[[Candidate], float | None]
    """What a candidate costs."""
    limit: Callable[[Budget], float | None]
    """What may be spent."""
    digits: Callable[[float], str]
    """Writes an amount."""


def _millions(value: float) -> str:
    return f"{value / 1e6:.3g}"


def _short(value: float) -> str:
    return f"{value:.3g}"


COSTS = (
    Cost("ms", lambda one: one.latency_ms, lambda budget: budget.latency_ms, _short),
    Cost("GFLOPs", lambda one: one.gflops, lambda budget: budget.gflops, _short),
    Cost("M parameters", lambda one: one.num_params, lambda budget: budget.params, _millions),
)
"""Latency first: where it is limited it is what counts."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one candidate."""

    candidate: Candidate
    """The model."""
    fits: bool
    """Whether it keeps every limit."""
    on_front: bool
    """Whether no other candidate is at least as good and cheaper."""
    reason: str
    """Why it won or lost, against the chosen one."""


def costs_of(budget: Budget) -> list[Cost]:
    """Give the costs that a comparison looks at: those that are limited, else multiply-adds."""
    limited = [cost for cost in COSTS if cost.limit(budget) is not None]
    return limited or [cost for cost in COSTS if cost.name == "GFLOPs"]


def judge(candidates: Sequence[Candidate], budget: Budget, unit: str) -> list[Verdict]:
    """Choose, and say why each candidate won or lost.

    Args:
        candidates: All with the same yardstick.
        budget: The limits.
        unit: ``points`` where qualities are fractions that people read as per cent.

    Returns:
        One verdict for each, in the order given; the winner's reason begins with ``chosen``. Nobody wins where nothing
        fits.
    """
    costs = costs_of(budget)
    fitting = [one for one in candidates if not faults(one, budget)]
    best = min(fitting, key=lambda one: (-one.quality, *(cost.value(one) or 0 for cost in costs)), default=None)
    verdicts = []
    for one in candidates:
        rival = _dominating(one, candidates, costs)
        reason = _reason(one, best, rival, faults(one, budget), costs, unit)
        verdicts.append(Verdict(one, one in fitting, rival is None and _known(one, costs), reason))
    return verdicts


def faults(one: Candidate, budget: Budget) -> list[str]:
    """Say which limits a candidate breaks."""
    if one.fault:
        return [one.fault]
    broken, unknown = [], []
    for cost in COSTS:
        limit, value = cost.limit(budget), cost.value(one)
        if limit is not None and value is None:
            unknown.append(
                "its latency was not measured here" if cost.name == "ms" else f"its {cost.name} are not known"
            )
        elif limit is not None and value is not None and value > limit:
            broken.append(f"{cost.digits(value)} {cost.name} are over the budget of {cost.digits(limit)}")
    if budget.min_accuracy is not None and one.quality < budget.min_accuracy:
        broken.append(f"{one.quality:.2%} is under the {budget.min_accuracy:.2%} asked for")
    # What breaks a limit is out, whatever else is not known of it.
    return broken or unknown


def miss(one: Candidate, budget: Budget) -> float:
    """Say by how much a candidate misses, as the largest share of a limit; infinite where that is not known."""
    shares = [0.0]
    for cost in COSTS:
        limit, value = cost.limit(budget), cost.value(one)
        if limit is not None:
            shares.append(float("inf") if value is None else max(0.0, value / limit - 1) if limit else float("inf"))
    if budget.min_accuracy is not None:
        shares.append(max(0.0, budget.min_accuracy / one.quality - 1) if one.quality > 0 else float("inf"))
    return float("inf") if one.fault else max(shares)


def _known(one: Candidate, costs: Sequence[Cost]) -> bool:
    return one.fault is None and all(cost.value(one) is not None for cost in costs)


def _dominating(one: Candidate, candidates: Sequence[Candidate], costs: Sequence[Cost]) -> Candidate | None:
    if not _known(one, costs):
        return None
    better = [other for other in candidates if other is not one and _known(other, costs) and _beats(other, one, costs)]
    return max(better, key=lambda other: (other.quality, other.name), default=None)


def _beats(other: Candidate, one: Candidate, costs: Sequence[Cost]) -> bool:
    pairs = [(cost.value(other) or 0.0, cost.value(one) or 0.0) for cost in costs]
    no_worse = other.quality >= one.quality and all(theirs <= own for theirs, own in pairs)
    return no_worse and (other.quality > one.quality or any(theirs < own for theirs, own in pairs))


def _reason(
    one: Candidate,
    best: Candidate | None,
    rival: Candidate | None,
    broken: Sequence[str],
    costs: Sequence[Cost],
    unit: str,
) -> str:
    if one is best:
        return "chosen: the best that keeps to the budget"
    ahead = None if best is None else one.quality - best.quality
    if broken:
        found = " and ".join(broken)
        if not ahead:
            return found
        return (
            f"{_points(ahead, unit)} better, but {found}"
            if ahead > 0
            else f"{_points(-ahead, unit)} worse, and {found}"
        )
    if rival is not None:
        how = "as good" if rival.quality == one.quality else f"{_points(rival.quality - one.quality, unit)} better"
        return f"dominated by {rival.name}: {how} and {_cheaper(rival, one, costs)}"
    if best is None or ahead is None:
        return "its costs are not known"
    return f"{_points(-ahead, unit)} worse, though {_cheaper(one, best, costs)}"


def _points(difference: float, unit: str) -> str:
    return f"{100 * difference:.2g} {unit}" if unit == "points" else f"{difference:.3g}"


def _cheaper(one: Candidate, than: Candidate, costs: Sequence[Cost]) -> str:
    for cost in costs:
        own, theirs = cost.value(one), cost.value(than)
        if own is not None and theirs is not None and own < theirs:
            return f"cheaper ({cost.digits(own)} against {cost.digits(theirs)} {cost.name})"
    return "no costlier"
