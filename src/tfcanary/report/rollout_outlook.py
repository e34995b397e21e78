"""
When a rollout's next decision can be expected, at the traffic that it has.
"""

import functools
import math
from dataclasses import dataclass

from tfcanary.judge.judge import Judge
from tfcanary.judge.outlook import proof_forecast
from tfcanary.judge.plan import Plan as JudgePlan
from tfcanary.report.times import lasting
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What can be said of the time until a decision.

    Attributes:
        words: the interval, or why there is none.
        half: seconds until half of all canaries that are as good as stable are proven to be; None if there is no interval.
        most: the same for 95 % of them.
    """

    words: str
    half: float | None = None
    most: float | None = None


def expected(plan: Plan, state: State, judge: Judge, now: float) -> Expected:
    """
    The time until the canary's errors are proven to be within their tolerance, for a canary that is as good as stable.

    The forecast is that of a whole rollout at the present weight, and what the canary has answered counts towards it. It
    does not use what these answers were: a canary that has failed more often than stable takes longer.

    Args:
        plan: what was declared.
        state: where the rollout is.
        judge: its evidence.
        now: seconds since 1970.
    """
    none = _none(plan, state, judge, now)
    if none:
        return Expected(none)
    run, weight = judge.errors.run, judge.weight
    rate = _round((run.stable_bad + 0.5) / (run.stable + 1))
    half, most = (
        max(0.0, requests * weight / 100 - run.canary) for requests in _proof(plan.judge, rate, weight)
    )
    if not most:
        return Expected(
            "nothing can be said: 95 % of all canaries that are as good as stable are proven to be by fewer answers than "
            f"these {run.canary:,}"
        )
    if math.isinf(most):
        return Expected(
            f"nothing can be said: at {weight:g} %, too few canaries are ever proven to be as good as stable"
        )
    per_second = state.per_second * weight / 100
    # What is half done already may be over at any moment.
    begins = lasting(half / per_second) if half else "now"
    others = [name for name in plan.judge.required if name != "errors"]
    return Expected(
        f"errors proven in {begins} to {lasting(most / per_second)}: half and 95 % of all canaries that are as good as "
        f"stable, at {weight:g} % of {state.per_second:.3g} requests a second, of which about {100 * rate:g} % fail"
        + (f"; no forecast for {', '.join(others)}" if others else ""),
        half / per_second,
        most / per_second,
    )


def _none(plan: Plan, state: State, judge: Judge, now: float) -> str:
    """
    Why no time can be forecast, or what is known of it without a forecast; empty if one can be.
    """
    if state.ended:
        return "none: the rollout has ended"
    if state.phase is not Phase.JUDGE:
        return "none is due in this phase"
    if state.baking and (state.anyway or judge.proven()):
        left = state.since + plan.bake - now
        return f"the bake ends in {lasting(left)}" if left > 0 else "the bake is over"
    proven = {signal.name for signal in judge.signals() if signal.proven}
    left_over = [name for name in plan.judge.required if name not in proven]
    reasons = (
        (state.stuck, "nothing can be said: stable fails too"),
        (not left_over, "proven; what is left is the plan's: weights, their least time, approvals"),
        ("errors" not in left_over, f"nothing can be said: no forecast for {', '.join(left_over)}"),
        (
            not 0 < judge.weight < 100 or judge.weight != state.weight,
            f"nothing can be said: no answers at {state.weight:g} % yet",
        ),
        (state.per_second <= 0, "nothing can be said: no traffic was seen"),
    )
    return next((why for applies, why in reasons if applies), "")


def _round(rate: float) -> float:
    """
    A rate that is known from few events, to 1, 2 or 5 times a power of ten; forecasts of it are kept.
    """
    power = 10.0 ** math.floor(math.log10(rate))
    nearest = min((1, 2, 5, 10), key=lambda times: abs(math.log(rate / (times * power))))
    return float(f"{nearest * power:.1g}")


@functools.lru_cache(maxsize=64)
def _proof(plan: JudgePlan, rate: float, weight: float) -> tuple[float, float]:
    """
    Requests to both tracks until the proof, median and 95 %: half a second's work, and the same at every refresh.
    """
    found = proof_forecast(plan, stable=rate, weight=weight, per_second=1.0)
    return found.median, found.most
