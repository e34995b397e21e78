"""
The judge of a canary: looks go in, a ruling comes out, at any time and as often as one likes.

A ruling follows from the looks alone. There is no clock and no randomness: the same looks give the same ruling on every
machine, and a judge restored from its state goes on as if it had never stopped.

Several signals share alpha: the weighted mean of supermartingales that begin at 1 is one as well, whatever the
dependence between them is. A promotion needs every required signal proven, each at beta: a canary outside one tolerance
passes that signal's proof with probability beta at most, and passing all of them is no more likely.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from tfcanary.errors import UsageError
from tfcanary.judge.classes import ClassShift
from tfcanary.judge.cohorts import Cohorts
from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.events import Event
from tfcanary.judge.guards import SplitGuard
from tfcanary.judge.look import Look
from tfcanary.judge.pairs import Accuracy, Disagreement
from tfcanary.judge.plan import Plan, compact
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.reading import count
from tfcanary.judge.reasons import decide
from tfcanary.judge.ruling import Ruling, Signal

STATE = "tfserving-canary/judge-state/3"


class Test(Protocol):
    """
    What every signal can do.
    """

    def add(self, look: Look) -> None:
        """
        Add a look's counts.
        """

    def restart(self) -> None:
        """
        Look for faults that begin now as well.
        """

    def begin_step(self) -> None:
        """
        Another weight is in force.
        """

    def worse(self) -> float:
        """
        The logarithm of the evidence for "worse": an e-process under "no worse than stable".
        """

    def not_worse(self) -> float | None:
        """
        The logarithm of the evidence for "within the tolerance"; None if it cannot be proven.
        """

    def in_words(self) -> str:
        """
        What the evidence rests on.
        """

    def shown(self, sure: str, unit: str) -> str:
        """
        What is proven, once it is.

        Args:
            sure: the confidence, in words.
            unit: what is counted.
        """

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.
        """


class Judge:
    """
    The evidence about one canary.

    Attributes:
        at: when the last look that was used ended; None before the first.
        began: the time of the first.
        step_began: the time of the first at the present weight.
        weight: the canary's weight in per cent.
        looks: how many looks the present step has had.
        missing: how many of them were no evidence.
        unnamed: how many answers of the present step named no track.
        problem: why the last look was no evidence; empty if it was.
        faults: by kind, how many answers of each track were wrong whatever the input is.
        peak: the most evidence for "worse" so far.
        errors: the failed requests, which the guards and the ramp need whatever the signals are.
        tests: by signal.
        cohorts: the failed requests by cohort.
        split: answers of each track in this step.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        terms = plan.terms
        self.at: float | None = None
        self.began = self.step_began = self.weight = self.peak = 0.0
        self.looks = self.missing = self.unnamed = 0
        self.problem = "nothing was looked at"
        self.faults: dict[str, tuple[int, int]] = {}
        self.errors = Event("errors", terms)
        possible: dict[str, Test] = {
            "errors": self.errors,
            "slow": Event("slow", terms),
            "disagreement": Disagreement(terms),
            "accuracy": Accuracy(terms),
            "classes": ClassShift(terms),
        }
        self.tests = {name: possible[name] for name in plan.signals}
        self.cohorts = Cohorts(terms)
        self.split = SplitGuard()

    def look(self, look: Look) -> None:
        """
        Add what was counted since the last look.
        """
        self.problem = look.unusable(self.at)
        if self.problem:
            self.looks += 1
            self.missing += 1
            return
        self._move_to(look)
        self.looks += 1
        self.unnamed += look.unnamed
        self.split.add(*look.answers)
        for kind, (canary, stable) in look.faults.items():
            before = self.faults.get(kind, (0, 0))
            self.faults[kind] = before[0] + canary, before[1] + stable
        for test in self._all():
            test.add(look)
        self.cohorts.add(look)
        self.peak = max(self.peak, self.evidence())

    def _all(self) -> "list[Test]":
        """
        The tests of all signals, and the errors whether they are a signal or not.
        """
        return list({**self.tests, "errors": self.errors}.values())

    def _move_to(self, look: Look) -> None:
        """
        Begin a step where the weight is another one, and look for faults that begin now where time has moved on.

        Looks of one time, such as one of each weight while a new one spreads, may come in any order.
        """
        moved = self.at is not None and look.weight != self.weight
        if self.at is None:
            self.began = self.step_began = look.at
        elif look.at > self.at:
            for test in self._all():
                test.restart()
            self.cohorts.restart()
        if moved:
            for test in self._all():
                test.begin_step()
            self.split.begin_step()
            self.step_began, self.looks, self.missing, self.unnamed = look.at, 0, 0, 0
        self.at, self.weight = look.at, look.weight

    def evidence(self) -> float:
        """
        The logarithm of the evidence for "worse" of all signals together.
        """
        return log_sum([math.log(self.plan.shares[name]) + test.worse() for name, test in self.tests.items()])

    def proven(self) -> bool:
        """
        Whether every required signal is proven to be within its tolerance.
        """
        return all(signal.proven for signal in self.signals() if signal.required)

    def signals(self) -> tuple[Signal, ...]:
        """
        The evidence of each signal.
        """
        beta = self.plan.terms.beta
        sure = f"{100 * (1 - beta):g} % sure"
        found = []
        for name, test in self.tests.items():
            not_worse = test.not_worse()
            proven = not_worse is not None and not_worse >= math.log(1 / beta)
            found.append(
                Signal(
                    name,
                    share=self.plan.shares[name],
                    worse=test.worse(),
                    not_worse=not_worse,
                    required=name in self.plan.required,
                    proven=proven,
                    counts=test.in_words(),
                    shown=test.shown(sure, self.plan.unit) if proven else "",
                )
            )
        return tuple(found)

    def ruling(self, now: float | None = None) -> Ruling:
        """
        What to do.

        Args:
            now: the time on the clock of the records; by default that of the last look.
        """
        action, sentence = decide(self, now)
        return Ruling(
            action,
            sentence,
            self.at,
            self.weight,
            self.evidence(),
            math.exp(-self.peak),
            self.signals(),
            tuple(self.cohorts.worse()),
        )

    def next_weight(self, ramp: Ramp, *, per_second: float, reaction: float) -> float:
        """
        The largest weight that the evidence allows now; the present one if it allows no more.

        Args:
            ramp: how the weight may grow.
            per_second: requests to both tracks.
            reaction: seconds from a bad answer until the weight is 0, as measured.
        """
        return ramp.next_weight(
            self.weight,
            excess=self.errors.most_excess(),
            proven=self.proven(),
            per_second=per_second,
            reaction=reaction,
        )

    def as_json(self) -> dict[str, Any]:
        """
        The state as JSON values, for `restored`.
        """
        return {
            "schema": STATE,
            "plan": self.plan.digest,
            "at": self.at,
            "began": self.began,
            "stepBegan": self.step_began,
            "weight": self.weight,
            "looks": self.looks,
            "missing": self.missing,
            "unnamed": self.unnamed,
            "problem": self.problem,
            "peak": self.peak,
            "errors": self.errors.as_json(),
            "tests": {name: test.as_json() for name, test in self.tests.items() if name != "errors"},
            "cohorts": self.cohorts.as_json(),
            "split": self.split.as_json(),
            "faults": {kind: list(counts) for kind, counts in self.faults.items()},
        }

    def saved(self) -> str:
        """
        The state as one line of text.
        """
        return compact(self.as_json())


def restored(plan: Plan, text: str) -> Judge:
    """
    A judge that goes on from a state.

    Raises:
        UsageError: if the state is not one of a judge of this plan.
    """
    try:
        state = json.loads(text)
        if state["schema"] != STATE:
            raise UsageError(
                f"judge's state: expected schema {STATE}, got {state['schema']!r}, which another version wrote: its evidence "
                "does not count here; begin again, or go on with that version"
            )
        if state["plan"] != plan.digest:
            raise UsageError(
                "judge's state: expected evidence of this plan, got that of another; begin again"
            )
        judge = Judge(plan)
        judge.at = None if state["at"] is None else float(state["at"])
        judge.began, judge.step_began = float(state["began"]), float(state["stepBegan"])
        judge.weight, judge.peak = float(state["weight"]), float(state["peak"])
        judge.looks, judge.missing = count(state["looks"]), count(state["missing"])
        judge.unnamed = count(state["unnamed"])
        judge.problem = str(state["problem"])
        judge.errors.restore(state["errors"])
        for name, test in judge.tests.items():
            if name != "errors":
                test.restore(state["tests"][name])
        judge.cohorts.restore(state["cohorts"])
        judge.split.restore(state["split"])
        judge.faults = {kind: (count(one), count(other)) for kind, (one, other) in state["faults"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UsageError(
            f"judge's state: expected what a judge saved, got {type(exc).__name__}: {exc}"
        ) from exc
    return judge
