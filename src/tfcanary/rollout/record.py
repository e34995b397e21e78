"""
The release record: what a rollout did, what it showed, and what it did not show.

`record.schema.json` has its form.
"""

from collections.abc import Mapping
from typing import Any

from tfcanary.judge.judge import Judge, restored
from tfcanary.judge.plan import SHARES
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State

SCHEMA = "tfserving-canary/release-record/1"
# What no signal of a plan was about, for a reader.
_SUBJECTS = {
    "errors": "failed requests",
    "slow": "slow answers",
    "disagreement": "answers that name another class than stable's",
    "accuracy": "accuracy",
    "classes": "the share of each class",
}


def record(plan: Plan, state: State, facts: Mapping[str, str]) -> dict[str, Any]:
    """
    The record as JSON values.

    Args:
        plan: what was declared.
        state: where the rollout is.
        facts: the chart and the values, with their digests, by name. Models and images are in the state.
    """
    judge = restored(plan.judge, state.judge) if state.judge else Judge(plan.judge)
    shown, not_shown = claims(plan, state, judge)
    return {
        "schema": SCHEMA,
        "run": state.run,
        "release": plan.release,
        "from": state.baseline.versions[plan.stable],
        "to": plan.to,
        "end": state.phase.value if state.ended else "",
        "reason": state.reason,
        "startedBy": state.by,
        "startedAt": state.started,
        "endedAt": state.now if state.ended else None,
        "plan": {"digest": state.digest, "document": dict(state.plan)},
        "baseline": {"revision": state.baseline.revision, "values": dict(state.baseline.values)},
        "revision": state.revision,
        "weight": state.weight,
        "facts": {**facts, **state.facts},
        "weights": [
            {
                "weight": one.weight,
                "askedAt": one.asked,
                "seenAt": one.seen,
                "gatewayPods": one.pods,
                "verdict": one.verdict,
            }
            for one in state.steps
        ],
        "approvals": [{"gate": one.gate, "by": one.by, "at": one.at} for one in state.approvals],
        "withoutProof": state.anyway or None,
        "verdict": state.verdict,
        "ruling": judge.ruling().as_json(),
        "reactionSeconds": state.reaction,
        "cleanProbes": state.clean,
        "shown": shown,
        "notShown": not_shown,
        "events": [{"at": one.at, "text": one.text} for one in state.notes],
    }


def claims(plan: Plan, state: State, judge: Judge) -> tuple[list[str], list[str]]:
    """
    What the evidence shows, and what it does not, each in words.
    """
    signals = {signal.name: signal for signal in judge.signals()}
    shown = [f"{name}: {signal.shown}" for name, signal in signals.items() if signal.proven]
    unproven = [
        f"{name}: not proven to be within its tolerance; {signal.counts}"
        for name, signal in signals.items()
        if not signal.proven and signal.not_worse is not None
    ]
    unproven += [
        f"{name}: a fault could be found, and nothing can be proven"
        for name, signal in signals.items()
        if signal.not_worse is None
    ]
    unproven += [
        f"{name}: nothing was asked about {_SUBJECTS[name]}" for name in SHARES if name not in signals
    ]
    if not state.clean:
        unproven.append("probes: no clean ones at weight 0")
    if plan.traffic.prometheus is None:
        unproven.append("traffic: the requests were our own, not the users'")
    return shown, unproven
