"""
The phases of a rollout, and what follows each.

A phase is an intention: it is saved before anything is done for it, and what it does may be done again. A driver that takes over
a rollout repeats the phase that it finds. Moving traffic, changing pods and waiting are phases of their own.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType


class Phase(enum.Enum):
    """
    Where a rollout is. A value is the name that people see.
    """

    DEPLOY = "deploy the canary at weight 0"
    EXAMINE = "examine its interface and warm-up"
    PROBE = "probe it at weight 0"
    JUDGE = "judge"
    SCALE = "scale the canary"
    WEIGH = "change the weight"
    WEIGH_SEEN = "wait for the gateways"
    WHOLE = "give the canary all traffic"
    WHOLE_SEEN = "wait for the gateways, canary at 100 %"
    WHOLE_DRAIN = "drain stable"
    RENEW = "give stable the new version"
    RETURN = "give stable all traffic"
    RETURN_SEEN = "wait for the gateways, stable at 100 %"
    RETURN_DRAIN = "drain the canary"
    RETIRE = "retire the canary"

    REDEPLOY = "back: deploy the canary again at weight 0"
    CARRY = "back: give the canary all traffic"
    CARRY_SEEN = "back: wait for the gateways, canary at 100 %"
    CARRY_DRAIN = "back: drain stable"
    UNRENEW = "back: give stable the old version"
    WITHDRAW = "back: give stable all traffic"
    WITHDRAW_SEEN = "back: wait for the gateways, canary at 0 %"
    WITHDRAW_DRAIN = "back: drain the canary"
    RESTORE = "back: restore the baseline"

    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


class Kind(enum.Enum):
    """
    What a phase does.
    """

    APPLY = "apply"
    SEEN = "seen"
    DRAIN = "drain"
    EXAMINE = "examine"
    PROBE = "probe"
    JUDGE = "judge"
    END = "end"


class Stage(enum.Enum):
    """
    Phases that a verb treats alike. A value is the name that people see.
    """

    NONE = "no rollout"
    PREPARING = "preparing"
    STEPPING = "stepping"
    BAKING = "baking"
    PROMOTING = "promoting"
    BACK = "going back"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


# What follows a phase that did what it had to. `JUDGE` decides by itself.
NEXT: Mapping[Phase, Phase] = MappingProxyType(
    {
        Phase.DEPLOY: Phase.EXAMINE,
        Phase.EXAMINE: Phase.PROBE,
        Phase.PROBE: Phase.JUDGE,
        Phase.SCALE: Phase.JUDGE,
        Phase.WEIGH: Phase.WEIGH_SEEN,
        Phase.WEIGH_SEEN: Phase.JUDGE,
        Phase.WHOLE: Phase.WHOLE_SEEN,
        Phase.WHOLE_SEEN: Phase.WHOLE_DRAIN,
        Phase.WHOLE_DRAIN: Phase.RENEW,
        Phase.RENEW: Phase.RETURN,
        Phase.RETURN: Phase.RETURN_SEEN,
        Phase.RETURN_SEEN: Phase.RETURN_DRAIN,
        Phase.RETURN_DRAIN: Phase.RETIRE,
        Phase.RETIRE: Phase.SUCCEEDED,
        Phase.REDEPLOY: Phase.CARRY,
        Phase.CARRY: Phase.CARRY_SEEN,
        Phase.CARRY_SEEN: Phase.CARRY_DRAIN,
        Phase.CARRY_DRAIN: Phase.UNRENEW,
        Phase.UNRENEW: Phase.WITHDRAW,
        Phase.WITHDRAW: Phase.WITHDRAW_SEEN,
        Phase.WITHDRAW_SEEN: Phase.WITHDRAW_DRAIN,
        Phase.WITHDRAW_DRAIN: Phase.RESTORE,
        Phase.RESTORE: Phase.ROLLED_BACK,
    }
)
_ENDS = (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)
_BACK = (
    Phase.REDEPLOY,
    Phase.CARRY,
    Phase.CARRY_SEEN,
    Phase.CARRY_DRAIN,
    Phase.UNRENEW,
    Phase.WITHDRAW,
    Phase.WITHDRAW_SEEN,
    Phase.WITHDRAW_DRAIN,
    Phase.RESTORE,
)
_PROMOTING = (
    Phase.WHOLE,
    Phase.WHOLE_SEEN,
    Phase.WHOLE_DRAIN,
    Phase.RENEW,
    Phase.RETURN,
    Phase.RETURN_SEEN,
    Phase.RETURN_DRAIN,
    Phase.RETIRE,
)
# Where stable still has the old version for certain, and the way back is one change of the weight.
BEFORE_RENEWAL = frozenset(
    {
        *(Phase.DEPLOY, Phase.EXAMINE, Phase.PROBE, Phase.JUDGE, Phase.SCALE, Phase.WEIGH, Phase.WEIGH_SEEN),
        *(Phase.WHOLE, Phase.WHOLE_SEEN, Phase.WHOLE_DRAIN),
    }
)


def kind(phase: Phase) -> Kind:
    """
    What a phase does.
    """
    if phase in _ENDS:
        return Kind.END
    if phase.name.endswith("_SEEN"):
        return Kind.SEEN
    if phase.name.endswith("_DRAIN"):
        return Kind.DRAIN
    return {Phase.EXAMINE: Kind.EXAMINE, Phase.PROBE: Kind.PROBE, Phase.JUDGE: Kind.JUDGE}.get(
        phase, Kind.APPLY
    )


def stage(phase: Phase, *, exposed: bool, baking: bool) -> Stage:
    """
    The stage that a phase belongs to.

    Args:
        phase: the phase.
        exposed: whether the canary was ever to get traffic.
        baking: whether the weight is that of the bake.
    """
    if phase in _ENDS:
        return Stage[phase.name]
    if phase in _BACK:
        return Stage.BACK
    if phase in _PROMOTING:
        return Stage.PROMOTING
    if baking:
        return Stage.BAKING
    return Stage.STEPPING if exposed or phase is Phase.JUDGE else Stage.PREPARING


def way_back(phase: Phase, *, exposed: bool) -> Phase:
    """
    The phase with which the way to the baseline begins.

    Stable's pods change only while the canary has all traffic, on the way back as on the way forward. Where stable may
    have the new version, the canary carries the traffic until stable has the old one again.

    Args:
        phase: where the rollout is, or where it failed.
        exposed: whether the canary was ever to get traffic.
    """
    if phase in _BACK:
        begins = (Phase.REDEPLOY, Phase.CARRY, Phase.UNRENEW, Phase.WITHDRAW, Phase.RESTORE)
        return max((one for one in begins if _BACK.index(one) <= _BACK.index(phase)), key=_BACK.index)
    if phase in BEFORE_RENEWAL:
        return Phase.WITHDRAW if exposed else Phase.RESTORE
    if phase is Phase.RENEW:
        return Phase.UNRENEW
    # The canary may be scaled down already once it was to be retired.
    return Phase.REDEPLOY if phase is Phase.RETIRE else Phase.CARRY
