"""The one place for what an inference workload showed. Times in virtual seconds.

Latencies are those of completed requests, `overall` those of all: at least so long. Fairness is
Jain's index, (sum x)**2 / (n * sum x**2), over users: 1 when all have the same, 1 / n when one has
all.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from protocol.config import SECOND
from simulations.inference.gateway import COMPLETED
from simulations.inference.request import Request
from simulations.inference.service import Service
from simulations.inference.view import AGE_STEP_NS

Measure = float | int | None
_PERCENTS: Final = (50, 95, 99)


def measures_of(service: Service) -> dict[str, Measure]:
    """Every measure by name, of what came since `Service.begin`."""
    requests = service.requests
    ended = Counter(request.outcome for request in requests if request.outcome)
    completed = [request for request in requests if request.outcome == COMPLETED]
    failed = sum(ended.values()) - len(completed)
    rows: dict[str, Measure] = {
        "requests": len(requests),
        "requests_completed": len(completed),
        "requests_failed": failed,
        "requests_in_flight": len(requests) - len(completed) - failed,
        **{f"failed_{code}": ended[code] for code in sorted(ended) if code != COMPLETED},
        "refusals": sum(request.refusals for request in requests),
        "retries": sum(request.retries for request in requests),
        "continuations": sum(request.continuations for request in requests),
        **_latencies(
            "first_token", [r.first_ns - r.arrived_ns for r in completed if r.first_ns is not None]
        ),
        **_latencies(
            "completion", [r.ended_ns - r.arrived_ns for r in completed if r.ended_ns is not None]
        ),
        **_latencies("overall", [_at_least_ns(service, request) for request in requests]),
        "tokens_per_s": _ratio(
            sum(r.served_tokens for r in requests) * SECOND, service.until_ns, 1
        ),
        "offered_requests_per_s": _ratio(len(requests) * SECOND, service.until_ns, 4),
        "capacity_requests_per_s": _ratio(
            service.workload.capacity_uhz(len(service.world.hosts)), 1_000_000, 4
        ),
    }
    rows.update(_fairness(service))
    for name, ppm in service.utilisation_ppm().items():
        rows[f"utilisation_{name}"] = _ratio(ppm, 1_000_000, 4)
    rows.update(_ages(service))
    swing = service.herding.swing_milli
    rows["herding_swing"] = None if swing is None else _ratio(swing, 1_000, 3)
    return rows


def _at_least_ns(service: Service, request: Request) -> int:
    """From its arrival to its completion; one in flight has taken so long already, and one that
    failed counts as one that came at its deadline.
    """
    if request.ended_ns is None:
        return service.world.now - request.arrived_ns
    if request.outcome != COMPLETED:
        return service.workload.deadline_ns
    return request.ended_ns - request.arrived_ns


def _latencies(name: str, times_ns: Sequence[int]) -> dict[str, Measure]:
    ordered = sorted(times_ns)
    return {
        f"{name}_p{percent}_s": _ratio(
            ordered[min(len(ordered) * percent // 100, len(ordered) - 1)], SECOND, 6
        )
        if ordered
        else None
        for percent in _PERCENTS
    }


def _fairness(service: Service) -> dict[str, Measure]:
    """Of tokens served, and of the share of what each asked for that was served."""
    served: dict[int, int] = {}
    asked: dict[int, int] = {}
    for request in service.requests:
        if request.outcome:
            served[request.user] = served.get(request.user, 0) + request.served_tokens
            asked[request.user] = asked.get(request.user, 0) + request.output_tokens
    shares = [served[user] * 1_000_000 // asked[user] for user in asked]
    return {
        "fairness_tokens": _jain(list(served.values())),
        "fairness_share": _jain(shares),
    }


def _jain(values: Sequence[int]) -> float | None:
    squares = sum(value * value for value in values)
    return _ratio(sum(values) ** 2, len(values) * squares, 4) if squares else None


def _ages(service: Service) -> dict[str, Measure]:
    """How old the loads were by which gateways chose, over all candidates but themselves."""
    views = [view for gateway in service.gateways for view in gateway.views]
    ages: Counter[int] = Counter()
    for view in views:
        ages.update(view.ages)
    known, unknown = sum(ages.values()), sum(view.unknown for view in views)
    rows: dict[str, Measure] = {}
    for percent in (50, 99):
        rows[f"load_age_p{percent}_s"] = _percentile_of(ages, known, percent)
    rows["load_unknown_share"] = _ratio(unknown, known + unknown, 4) if known + unknown else None
    return rows


def _percentile_of(ages: Counter[int], count: int, percent: int) -> float | None:
    passed = 0
    for age in sorted(ages):
        passed += ages[age]
        if passed * 100 > count * percent:
            return _ratio(age * AGE_STEP_NS, SECOND, 1)
    return _ratio(max(ages) * AGE_STEP_NS, SECOND, 1) if ages else None


def _ratio(value: int, unit: int, digits: int) -> float:
    return round(value / unit, digits)
