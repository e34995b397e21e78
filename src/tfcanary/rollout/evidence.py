"""
The judge at work in a rollout: from what a cluster counted to what the transition is told.
"""

import math
from typing import Protocol

from tfcanary.judge import guards
from tfcanary.judge.judge import Judge, restored
from tfcanary.judge.look import Look
from tfcanary.judge.reading import of
from tfcanary.judge.ruling import Action
from tfcanary.rollout.cluster import Counted, Probes
from tfcanary.rollout.events import Judged, Probed
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State

# Probability of ever refusing an equal canary because of its probes.
PROBE_ALPHA = 0.001
# Seconds for the gateways to learn of a weight, until that has been measured.
FIRST_REACTION = 5.0


class Evidence(Protocol):
    """
    What judges in a rollout.
    """

    def since(self, state: State) -> float | None:
        """
        The time of the last record that was judged.
        """

    def probed(self, state: State, now: float, found: Probes) -> Probed:
        """
        What the probes say.
        """

    def judged(self, state: State, now: float, counted: Counted) -> Judged:
        """
        What the records say.
        """


class JudgeEvidence:
    """
    The judge's evidence, which goes on from the rollout's state.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._judge, self._saved = Judge(plan.judge), ""

    def since(self, state: State) -> float | None:
        """
        The time of the last record that was judged.
        """
        return self._of(state).at

    def probed(self, state: State, now: float, found: Probes) -> Probed:
        """
        Refuse a canary that answers nothing, fails where stable does not, or gives answers that no input explains.
        """
        judge = self._of(state)
        if found.look is not None:
            judge.look(found.look)
        clean = found.both + found.stable_failed
        failed = found.canary_failed + found.neither
        problem = _against(found, clean, clean + failed)
        ruling = judge.ruling(now)
        if not problem and ruling.action is Action.ROLLBACK:
            problem = ruling.sentence
        return Probed(now, problem, 0 if failed else clean, self._keep(judge))

    def judged(self, state: State, now: float, counted: Counted) -> Judged:
        """
        Look, and say what the evidence allows.
        """
        judge = self._of(state)
        for look in counted.looks:
            judge.look(look)
        ruling = judge.ruling(now)
        per_second = counted.per_second if math.isfinite(counted.per_second) else 0.0
        sound = _sound(judge, state.weight, now) and per_second > 0
        allowed = self._allowed(judge, state, per_second) if sound else 0.0
        sentence = ruling.sentence
        if sound and not allowed and not state.weight and ruling.action is Action.WAIT:
            sentence = (
                f"wait: even {self._plan.ramp.ladder[0]:g} % of {per_second:.3g} requests a second could cost more than "
                f"{self._plan.ramp.answers:g} bad answers before the weight is 0 again"
            )
        return Judged(
            now,
            ruling.action,
            sentence,
            sound,
            allowed,
            judge.split.canary,
            _stuck(judge, ruling.action),
            per_second,
            self._keep(judge),
        )

    def _of(self, state: State) -> Judge:
        """
        The judge as the state has it; another driver may have saved it.
        """
        if state.judge != self._saved:
            self._judge = restored(self._plan.judge, state.judge) if state.judge else Judge(self._plan.judge)
            self._saved = state.judge
        return self._judge

    def _keep(self, judge: Judge) -> str:
        # Until the state is saved with it, this is evidence that nobody has.
        self._saved = judge.saved()
        return self._saved

    def _allowed(self, judge: Judge, state: State, per_second: float) -> float:
        ramp = self._plan.ramp
        reaction = state.reaction or FIRST_REACTION + self._plan.limits.look
        if state.weight:
            return judge.next_weight(ramp, per_second=per_second, reaction=reaction)
        # So many clean probes bound the canary's failures.
        most = min(1.0, math.log(1 / self._plan.judge.terms.delta) / state.clean) if state.clean else 1.0
        return ramp.first_weight(per_second * most, reaction) or 0.0


def missing(now: float, weight: float, why: str) -> Counted:
    """
    What is counted where nothing can be: no evidence.
    """
    return Counted((Look(at=now, weight=weight, problem=why),), 0.0)


def _sound(judge: Judge, weight: float, now: float) -> bool:
    """
    Whether the data of this weight is complete, and neither old nor of a clock that runs ahead.
    """
    plan = judge.plan
    if judge.problem or judge.at is None or judge.weight != weight:
        return False
    answers = judge.split.canary + judge.split.stable + judge.unnamed
    return (
        abs(now - judge.at) < plan.stale
        and judge.missing <= plan.missing * judge.looks
        and judge.unnamed <= plan.missing * answers
    )


def _stuck(judge: Judge, verdict: Action) -> bool:
    """
    Whether nothing can be decided because stable fails too, and not because the split is another one or time is up.
    """
    both_faulty = any(canary and stable for canary, stable in judge.faults.values())
    fails = both_faulty or guards.stable_fails(judge.errors.run, judge.plan.terms)
    return verdict is Action.INCONCLUSIVE and fails and not judge.split.refuted(judge.weight)


def _against(found: Probes, clean: int, total: int) -> str:
    """
    What the probes have against the canary: only pairs in which one track fails say who is worse.
    """
    if not clean:
        return f"the canary answered none of {total:,} probes"
    apart = found.canary_failed + found.stable_failed
    chance = sum(math.comb(apart, k) for k in range(found.canary_failed, apart + 1)) / 2**apart
    if not apart or chance > PROBE_ALPHA:
        return ""
    return (
        f"the canary failed {of(found.canary_failed + found.neither, total)} probes, stable "
        f"{of(found.stable_failed + found.neither, total)} of the same; an equal canary shows this with probability "
        f"{chance:.1g}"
    )
