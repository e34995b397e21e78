"""
What the judge says, in which order, and that nothing but evidence promotes.
"""

import dataclasses
import itertools
import math

import pytest
from streams import looks

from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.ruling import Action, rounded
from tfcanary.judge.terms import Terms

CLEAN = Counts(0, 900, 0, 900)
PLAN = Plan()


def after(*given, plan=PLAN, now=None):
    """
    The ruling after these looks.
    """
    judge = Judge(plan)
    for look in given:
        judge.look(look)
    return judge.ruling(now)


def at(second, weight=50, errors=CLEAN, **more):
    return Look(at=second, weight=weight, errors=errors, **more)


def test_clean_answers_at_the_top_weight_promote():
    ruling = after(at(1), at(20))

    assert Action.PROMOTE is ruling.action
    assert (
        "promote: at most 0.5 points more errors than stable, 95 % sure, from 1,800 clean canary answers"
        == ruling.sentence
    )


def test_792_clean_answers_are_enough():
    """
    The figure that the specification gives for half a point.
    """
    assert Action.WAIT is after(at(1, errors=Counts()), at(0), at(20, errors=Counts(0, 785, 0, 785))).action
    assert (
        Action.PROMOTE
        is after(at(1, errors=Counts(0, 1, 0, 1)), at(20, errors=Counts(0, 791, 0, 791))).action
    )


def test_a_proof_by_the_ratio_says_so():
    """
    5 % of both tracks fail: more than half a point, and much less than twice as much.
    """
    ruling = after(at(1, errors=Counts(100, 1900, 100, 1900)), at(20, errors=Counts(40, 760, 40, 760)))

    assert Action.PROMOTE is ruling.action
    assert ruling.sentence.startswith(
        "promote: less than 2 times stable's share of errors, 95 % sure: canary 140 of 2,800 (5 %), stable 140 of 2,800"
    )


def test_a_worse_canary_is_rolled_back_with_its_numbers():
    ruling = after(at(1, errors=Counts(30, 970, 3, 997)))

    assert Action.ROLLBACK is ruling.action
    assert (
        "roll back: errors worse than stable: canary 30 of 1,000 (3 %), stable 3 of 1,000 (0.3 %); a canary that is no worse "
        "ever shows this with probability 1 % at most" == ruling.sentence
    )
    assert 1e-4 > ruling.p_value > 0


def test_the_signal_that_is_named_has_most_of_the_evidence_by_its_share():
    """
    One more slow answer than failures is a little more evidence, and has two sevenths of the weight.
    """
    plan, counts = Plan(signals=("errors", "slow")), Counts(30, 970, 3, 997)

    def named(slow):
        return after(at(1, errors=counts, slow=Counts(slow, 1000 - slow, 3, 997)), plan=plan).sentence

    assert named(31).startswith("roll back: errors worse than stable")
    assert named(35).startswith("roll back: slow worse than stable")


def test_rolling_back_comes_before_promoting():
    """
    Bad in the end, after a long good time that proves the tolerance.
    """
    good = [at(second) for second in range(1, 20)]

    assert Action.PROMOTE is after(*good).action
    assert Action.ROLLBACK is after(*good, at(40, errors=Counts(20, 0, 0, 20))).action


def test_a_canary_that_answers_nothing_is_a_black_hole():
    ruling = after(at(1, weight=5, errors=Counts(0, 0, 0, 140)))

    assert Action.ROLLBACK is ruling.action
    assert (
        "roll back: none of 140 answers is the canary's: nothing that it gets is answered" == ruling.sentence
    )


def test_a_fault_of_one_answer_rolls_back_without_statistics():
    ruling = after(at(1, faults={"NaN": (1, 0)}))

    assert Action.ROLLBACK is ruling.action
    assert "roll back: NaN in 1 answers of the canary, which no input explains" == ruling.sentence


def test_faults_of_all_looks_are_counted():
    ruling = after(at(1, faults={"NaN": (2, 0)}), at(2, faults={"NaN": (3, 0)}))

    assert "roll back: NaN in 5 answers of the canary, which no input explains" == ruling.sentence


def test_a_fault_of_both_tracks_is_none_of_the_canary():
    assert Action.INCONCLUSIVE is after(at(1, faults={"NaN": (1, 1)})).action
    assert Action.WAIT is after(at(1, faults={"NaN": (0, 1)})).action


def test_a_split_that_is_not_the_declared_one_voids_the_evidence():
    """
    15 % of the answers at a declared 10 %: each track fails equally often, and the canary seems worse.
    """
    ruling = after(at(1, weight=10, errors=Counts(75, 1425, 425, 8075)))

    assert Action.INCONCLUSIVE is ruling.action
    assert (
        "inconclusive: the canary gave 1,500 of 10,000 (15 %) answers of this step, and a weight of 10 %"
        in ruling.sentence
    )


def test_answers_of_a_track_without_weight_void_the_evidence():
    assert Action.INCONCLUSIVE is after(at(1, weight=0, errors=Counts(0, 1, 0, 50))).action
    assert Action.INCONCLUSIVE is after(at(1, weight=100, errors=Counts(0, 50, 0, 1))).action
    assert Action.WAIT is after(at(1, weight=0, errors=Counts(0, 0, 0, 50))).action


def test_the_split_is_tested_at_each_weight():
    """
    What was drawn at 10 % fits 10 %, and would not fit 50 %.
    """
    first = at(1, weight=10, errors=Counts(0, 500, 0, 4500))

    assert Action.INCONCLUSIVE is not after(first, at(2, weight=50)).action


def test_a_stable_track_that_fails_too_promotes_nothing():
    ruling = after(at(1, errors=Counts(600, 400, 600, 400)), at(20))

    assert Action.INCONCLUSIVE is ruling.action
    assert ruling.sentence.startswith(
        "inconclusive: stable fails too: 600 of 1,900 (32 %) of its requests, and the ceiling is 5 %"
    )


def test_stable_at_exactly_the_ceiling_is_not_above_it():
    assert Action.PROMOTE is after(at(1, errors=Counts(1000, 19000, 1000, 19000)), at(20)).action


def test_what_is_not_decided_within_the_horizon_is_inconclusive():
    early = at(1, weight=5, errors=Counts(0, 10, 0, 190))
    late = dataclasses.replace(early, at=4 * 3600.0 + 1)

    ruling = after(early, late)

    assert Action.INCONCLUSIVE is ruling.action
    assert ruling.sentence.startswith("inconclusive: not decided within 4 h: the weight is 5 % of 50 %; ")
    assert Action.WAIT is after(early, dataclasses.replace(early, at=4 * 3600.0)).action


def test_the_horizon_is_said_in_hours():
    """
    3,618.5 seconds, to three digits: 1.00514 hours.
    """
    ruling = after(at(1, 25, Counts(0, 1, 0, 3)), at(3620, 25, Counts(0, 1, 0, 3)), plan=Plan(horizon=3618.5))

    assert ruling.sentence.startswith("inconclusive: not decided within 1.01 h: ")


@pytest.mark.parametrize(
    ("plan", "given", "waits"),
    [
        (
            Plan(),
            [at(1, 25, Counts(0, 450, 0, 1350)), at(20, 25, Counts(0, 450, 0, 1350))],
            "wait: the weight is 25 % of 50 %",
        ),
        (Plan(), [at(1), at(10)], "wait: the step is 9 s of 10 s old"),
        (Plan(least_requests=2000), [at(1), at(20)], "wait: 1,800 of 2,000 canary answers in this step"),
        (
            Plan(),
            [at(1, errors=Counts(0, 50, 0, 50)), at(20, errors=Counts(0, 60, 0, 60))],
            "wait: errors: evidence ",
        ),
        (
            Plan(),
            [
                at(1, 25, Counts(0, 900, 0, 2700)),
                at(20, errors=Counts(0, 50, 0, 50)),
                at(40, errors=Counts(0, 49, 0, 49)),
            ],
            "wait: 99 of 100 canary answers in this step",
        ),
        (Plan(), [at(1), at(20, weight=25), at(21), at(22)], "wait: the step is 1 s of 10 s old"),
        (
            Plan(signals=("errors", "slow"), required=("errors", "slow")),
            [at(1), at(20)],
            "wait: slow: evidence 1 of 20",
        ),
    ],
    ids=["weight", "seconds", "requests", "default requests", "proof", "new step", "second signal"],
)
def test_what_is_missing_is_said(plan, given, waits):
    ruling = after(*given, plan=plan)

    assert Action.WAIT is ruling.action
    assert ruling.sentence.startswith(waits)


NAN = float("nan")
# Each is what the last look, or the time of the question, may be, after looks that would promote.
NO_DATA = {
    "no look at all": None,
    "nothing counted": {"errors": Counts()},
    "the source was not reached": {"problem": "metrics cannot be reached"},
    "half of the records": {"problem": "3 of 6 gateway pods answered"},
    "NaN failures": {"errors": Counts(NAN, 900, 0, 900)},
    "NaN successes": {"errors": Counts(0, NAN, 0, 900)},
    "infinite": {"errors": Counts(0, math.inf, 0, 900)},
    "negative: a counter was reset": {"errors": Counts(0, -900, 0, 900)},
    "a fraction: a rate and no count": {"errors": Counts(0, 900.5, 0, 900)},
    "true is no number": {"errors": Counts(canary_good=True, stable_good=900)},
    "text": {"errors": Counts(0, "900", 0, 900)},
    "NaN slow": {"slow": Counts(NAN, 1, 1, 1)},
    "NaN pairs": {"pairs": Pairs(NAN, 0)},
    "NaN class": {"classes": {"cat": (NAN, 3)}},
    "NaN cohort": {"cohorts": {"europe": Counts(NAN)}},
    "NaN fault": {"faults": {"NaN": (NAN, 0)}},
    "NaN routed": {"routed": (NAN, 900)},
    "NaN weight": {"weight": NAN},
    "weight of another unit": {"weight": 5000},
    "a weight above all": {"weight": 100.5},
    "negative weight": {"weight": -50},
    "no time": {"at": NAN},
    "time without end": {"at": math.inf},
    "a look from before": {"at": 5},
    "stable's answers alone": {"at": 21, "weight": 45, "errors": Counts(0, 0, 0, 5)},
}


@pytest.mark.parametrize("case", NO_DATA)
def test_missing_data_is_never_good_news(case):
    """
    The looks before would promote. With a last look that is no data, nothing does.
    """
    before = [at(1), at(20)]
    changed = NO_DATA[case]

    assert Action.PROMOTE is after(*before).action
    last = [] if changed is None else [*before, dataclasses.replace(at(21), **changed)]
    assert after(*last).action in (Action.WAIT, Action.INCONCLUSIVE)


@pytest.mark.parametrize("changed", [case for case in NO_DATA.values() if case])
def test_missing_data_alone_never_promotes(changed):
    given = [dataclasses.replace(at(second), **{"at": second, **changed}) for second in range(1, 60)]

    assert after(*given).action is not Action.PROMOTE


def test_a_look_that_is_too_old_does_not_promote():
    assert Action.PROMOTE is after(at(1), at(20), now=79).action
    assert "wait: the last look is 60 s old" == after(at(1), at(20), now=80).sentence
    assert Action.WAIT is after(at(1), at(20), now=NAN).action


def test_a_step_with_many_gaps_does_not_promote():
    """
    What is missing may be what failed. One look in twenty may be missing, and not more.
    """
    good, gap = [at(second) for second in range(1, 20)], dataclasses.replace(at(19), problem="no answer")

    assert Action.PROMOTE is after(gap, *good).action
    ruling = after(gap, gap, *good)
    assert "wait: 2 of 21 looks of this step were no evidence" == ruling.sentence


def test_gaps_belong_to_their_step():
    """
    At another weight the looks, those without evidence and the answers without a track are counted from 0.
    """
    judge = Judge(PLAN)
    judge.look(at(1, unnamed=3))
    judge.look(dataclasses.replace(at(2), problem="no answer"))
    assert (2, 1, 3) == (judge.looks, judge.missing, judge.unnamed)

    judge.look(at(3, 25, Counts(0, 10, 0, 30)))
    assert (1, 0, 0) == (judge.looks, judge.missing, judge.unnamed)


def test_missing_data_does_not_hide_a_fault():
    """
    What was seen before it counts.
    """
    bad, gap = at(1, errors=Counts(30, 970, 3, 997)), dataclasses.replace(at(2), problem="no answer")

    assert Action.ROLLBACK is after(bad, gap).action


def test_a_logarithm_that_rounds_to_nothing_has_no_sign():
    assert "0.0" == str(rounded(-1e-9))
    assert "-0.000001" == f"{rounded(-1.4e-6):f}"


def test_signals_share_alpha_by_their_weights():
    """
    A signal without evidence keeps its part: twice the evidence of one is needed if it has half of the weight.
    """
    plan = Plan(signals=("errors", "slow"))
    both = Judge(plan)
    both.look(at(1, errors=Counts(8, 100, 0, 100)))
    alone = Judge(Plan())
    alone.look(at(1, errors=Counts(8, 100, 0, 100)))

    shares = {"errors": 5 / 7, "slow": 2 / 7}
    assert pytest.approx(shares) == plan.shares
    assert pytest.approx(5 / 7 * math.exp(alone.evidence()) + 2 / 7) == math.exp(both.evidence())


def test_base_rates_of_5_per_cent_at_200_requests_a_second_promote():
    """
    The case in which a ramp by the bound on the harm alone would never leave 25 %.
    """
    judge = Judge(PLAN)
    stream = looks(1, per_second=200, weight=50, canary=0.05, stable=0.05)
    ruling = judge.ruling()
    while ruling.action is Action.WAIT and (ruling.at or 0) < 60:
        judge.look(next(stream))
        ruling = judge.ruling()

    assert Action.PROMOTE is ruling.action
    assert 60 > ruling.at


def test_the_next_weight_follows_from_the_present_step():
    """
    50 clean answers bound the excess at 7 %: 10 bad answers at 20 requests a second within 5 seconds allow 25 %, and at 2,000
    they do not. At another weight the count begins again.
    """
    judge = Judge(PLAN)
    judge.look(at(1, 5, Counts(0, 50, 0, 950)))

    assert 25 == judge.next_weight(Ramp(), per_second=20, reaction=5)
    assert 5 == judge.next_weight(Ramp(), per_second=2000, reaction=5)
    judge.look(at(2, 25, Counts(0, 1, 0, 3)))
    assert 25 == judge.next_weight(Ramp(), per_second=200, reaction=5)


def test_terms_decide_how_sure_one_is():
    strict = Plan(terms=Terms(alpha=1e-6))

    assert Action.ROLLBACK is after(at(1, errors=Counts(14, 970, 1, 997))).action
    assert Action.WAIT is after(at(1, errors=Counts(14, 970, 1, 997)), plan=strict).action


@pytest.mark.parametrize("at", [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0]])
def test_looks_of_one_time_count_in_any_order(at):
    """
    Of both weights, while a new one spreads. A piece of what is kept back is put on only when time has moved on.
    """
    first = Look(at=at[0], weight=10, errors=Counts(1, 2, 3, 40))
    same = [
        Look(at=at[1], weight=5, errors=Counts(9, 1, 0, 90)),
        Look(at=at[1], weight=5, errors=Counts(8, 0, 1, 99)),
        Look(at=at[2], weight=10, errors=Counts(5, 0, 1, 60)),
    ]

    found = []
    for some in itertools.permutations(same):
        judge = Judge(Plan())
        for look in (first, *some):
            judge.look(look)
        found.append(judge.evidence())

    assert [pytest.approx(found[0], rel=1e-12)] * 6 == found


def test_a_fault_is_looked_for_anew_when_time_moves_on_and_not_before():
    """
    One good answer ends the bet on a dead canary. Within the same second it stays ended.
    """

    def evidence(at):
        judge = Judge(Plan())
        judge.look(Look(at=1.0, weight=10, errors=Counts(0, 10, 0, 90)))
        judge.look(Look(at=at, weight=10, errors=Counts(0, 0, 0, 1)))
        judge.look(Look(at=at, weight=10, errors=Counts(30, 0, 0, 270)))
        return judge.evidence()

    assert evidence(1.5) - evidence(1.0) > 10
