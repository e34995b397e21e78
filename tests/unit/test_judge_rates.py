"""
The two tests of a rate: equal to their specification, supermartingales under their hypotheses, exact at any size.
"""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_judge import ReferenceJudge, ratios

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts
from tfcanary.judge.eprocess import log_mixture, log_ratio, log_sum
from tfcanary.judge.events import Event
from tfcanary.judge.look import Look
from tfcanary.judge.rates import NotWorse, Worse, above, below, mixture, most_excess, share
from tfcanary.judge.terms import Spread, Terms, Tolerance

TERMS = Terms()
CHANCES = st.sampled_from([0.01, 0.05, 0.06, 0.065, 0.08, 0.1, 0.16, 0.25, 0.5, 0.9])
COUNT = st.integers(0, 200)
COUNTS = st.builds(Counts, COUNT, COUNT, COUNT, COUNT)
LOOKS = st.lists(st.tuples(CHANCES, COUNTS, st.booleans()), max_size=8)


@given(looks=LOOKS)
@settings(max_examples=100, deadline=None)
def test_the_evidence_is_the_specifications(looks):
    """
    At any weights and counts, with restarts between the looks, to 9 digits.
    """
    expected, event = ReferenceJudge(), Event("errors", TERMS)

    for chance, counts, restarts in looks:
        expected.add(chance, *counts)
        event.add(Look(at=0, weight=100 * chance, errors=counts))
        if restarts:
            expected.restart()
            event.restart()

    assert pytest.approx(expected.worse(), rel=1e-9, abs=1e-9) == event.worse()
    assert pytest.approx(expected.not_worse(), rel=1e-9, abs=1e-9) == event.not_worse()
    assert pytest.approx(expected.excess(), rel=1e-9) == event.most_excess()


@pytest.mark.parametrize(
    "chance",
    [
        *(0.01, 0.0515, 0.0516, 0.0615, 0.0616, 0.066, 0.0661, 0.097, 0.0971),
        *(0.152, 0.1521, 0.162, 0.1621, 0.5),
    ],
)
def test_what_the_bets_are_on_is_the_specifications(chance):
    """
    At both ends of each range of weights at which they lie elsewhere, and beside them.
    """
    assert pytest.approx(ratios(chance)) == TERMS.worse(chance)


@pytest.mark.parametrize("good", [0, 10, 800])
@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_each_bet_on_a_small_rate_counts(bad, good):
    """
    With few failures: with many the smallest bets are lost, and nothing of them is left to be seen.
    """
    expected = ReferenceJudge.below(0.005, bad, good)

    assert pytest.approx(expected, rel=1e-9, abs=1e-12) == below(0.005, bad, good, TERMS)


def ways(chance, canary, stable):
    """
    What one request can be, with its probability.
    """
    yield chance * canary, Counts(canary_bad=1)
    yield chance * (1 - canary), Counts(canary_good=1)
    yield (1 - chance) * stable, Counts(stable_bad=1)
    yield (1 - chance) * (1 - stable), Counts(stable_good=1)


def mean_after_one(begin, before, chance, canary, stable):
    """
    The mean of E after one more request, divided by E before it.
    """
    mean = 0.0
    for probability, counts in ways(chance, canary, stable):
        test, run = begin(), before.plus(counts)
        test.add(chance, before)
        now = evidence(test, before)
        test.add(chance, counts)
        mean += probability * math.exp(evidence(test, run) - now)
    return mean


def evidence(test, run):
    return test.evidence() if isinstance(test, Worse) else test.evidence(run)


SMALL = st.integers(0, 30)
RATES = st.floats(0.001, 0.999)


@given(
    chance=CHANCES, rate=RATES, better=st.floats(0, 1), before=st.builds(Counts, SMALL, SMALL, SMALL, SMALL)
)
@settings(max_examples=100, deadline=None)
def test_worse_is_a_martingale_of_equal_tracks_and_falls_for_a_better_canary(chance, rate, better, before):
    """
    Whatever the rate is. Then Ville's inequality bounds false rollbacks by alpha, however often one looks.
    """
    assert pytest.approx(1) == mean_after_one(lambda: Worse(TERMS), before, chance, rate, rate)
    assert 1 + 1e-9 >= mean_after_one(lambda: Worse(TERMS), before, chance, better * rate, rate)


@given(
    chance=CHANCES,
    stable=st.floats(0, 0.4),
    more=st.floats(0, 0.5),
    before=st.builds(Counts, SMALL, SMALL, SMALL, SMALL),
)
@settings(max_examples=100, deadline=None)
def test_not_worse_does_not_gain_on_a_canary_outside_the_tolerance(chance, stable, more, before):
    """
    Twice as bad or worse, and half a point more or worse.
    """
    canary = max(2 * stable, stable + 0.005) + more
    assume(canary < 1)

    def begin():
        return NotWorse(TERMS, TERMS.errors)

    assert 1 + 1e-9 >= mean_after_one(begin, before, chance, canary, stable)


@given(looks=st.lists(COUNTS, min_size=1, max_size=20), large=st.integers(1, 10**9))
@settings(max_examples=50, deadline=None)
def test_a_restart_changes_no_capital(looks, large):
    """
    What is put on "from now on" was kept back for it: the sum is the same.
    """
    test = Worse(TERMS)

    for counts in (*looks, Counts(stable_good=large), Counts(stable_bad=1)):
        test.add(0.1, counts)
        before = test.evidence()
        test.restart()
        assert pytest.approx(before, rel=1e-12, abs=1e-12) == test.evidence()


@pytest.mark.parametrize(("requests", "left"), [(0, 0.1), (30_000, 0.05), (990_000, 0.01)])
def test_what_is_kept_back_halves_when_the_requests_grow_fourfold(requests, left):
    """
    Of a tenth, by the square root of 10,000 / (10,000 + n), in one piece or in many.
    """
    for pieces in (1, 100):
        test = Worse(TERMS)
        for _ in range(pieces):
            test.add(0.1, Counts(canary_good=requests // pieces))
            test.restart()

        placed = sum(later for _, later in TERMS.shares)
        assert pytest.approx(1) == placed
        assert pytest.approx(left) == math.exp(test.evidence()) - sum(map(math.exp, test.parts))


def test_a_restart_without_a_request_puts_nothing_on():
    test = Worse(TERMS)
    test.restart()
    test.add(0.1, Counts(1, 2, 3, 4))
    test.restart()
    before = [*test.parts]

    test.restart()

    assert before == test.parts


def test_a_good_answer_ends_the_bet_on_a_dead_canary_until_the_next_restart():
    test = Worse(TERMS)

    test.add(0.1, Counts(canary_good=1))
    ended = test.parts[TERMS.grid]
    test.restart()

    assert -math.inf == ended
    # 0.1 (1 - sqrt(10,000 / 10,001)), of which half.
    assert pytest.approx(0.05 * 4.99963e-5, rel=1e-5) == math.exp(test.parts[TERMS.grid])


@given(looks=LOOKS, cut=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_a_batch_counts_as_its_requests_in_any_order(looks, cut):
    """
    At one weight and one time of the records. The difference is rounding: less than 1e-9.
    """
    whole, single = Event("errors", TERMS), Event("errors", TERMS)
    for chance, counts, _ in looks:
        counts = Counts(*(n % 20 for n in counts))  # noqa: PLW2901 - one request at a time takes long
        whole.add(Look(at=0, weight=100 * chance, errors=counts))
        each = [Counts(*(int(i == k) for i in range(4))) for k in range(4) for _ in range(counts[k])]
        for one in each[cut:] + each[:cut]:
            single.add(Look(at=0, weight=100 * chance, errors=one))

    assert whole.run == single.run
    assert pytest.approx(whole.worse(), rel=1e-9, abs=1e-9) == single.worse()
    assert pytest.approx(whole.not_worse(), rel=1e-9, abs=1e-9) == single.not_worse()


@pytest.mark.parametrize("counts", sorted(set(itertools.permutations((10**9, 10**9, 10**9, 10**7)))))
def test_a_billion_events_do_not_overflow(counts):
    event = Event("errors", TERMS)

    event.add(Look(at=0, weight=10, errors=Counts(*counts)))
    event.restart()

    assert math.isfinite(event.worse())
    assert math.isfinite(event.not_worse())
    assert -1 <= event.most_excess() <= 1
    assert math.isfinite(above(0.05, *counts[:2]))


@given(canary=st.integers(0, 60), stable=st.integers(0, 60), chance=CHANCES)
@settings(max_examples=40, deadline=None)
def test_a_fine_grid_of_ratios_is_the_closed_form_of_the_beta_mixture(canary, stable, chance):
    """
    The mean of likelihood ratios over all shares is a Beta function (Lindon and Malek), to 1e-6.
    """
    declared = {"canary": 100 * chance, "stable": 100 - 100 * chance}
    counts = {"canary": canary, "stable": stable}
    n = 4000
    grid = [{"canary": 100 * (i + 0.5) / n, "stable": 100 - 100 * (i + 0.5) / n} for i in range(n)]

    numeric = log_sum([log_ratio(other, declared, counts) for other in grid]) - math.log(n)

    # Half of the mixture is the only alternative, the declared split itself: its ratio is 1.
    closed = math.log(2 * math.exp(log_mixture([declared], declared, counts)) - 1)
    assert pytest.approx(closed, abs=1e-4 if closed > -1 else 1e-2) == numeric


@pytest.mark.parametrize(("points", "clean"), [(0.001, 4388), (0.005, 876), (0.01, 438)])
def test_clean_answers_prove_the_budget_by_the_rule_of_three(points, clean):
    """
    At most (ln 1/beta + ln 4) / b of them, wherever the ratio has nothing to say.
    """
    test = NotWorse(TERMS, Tolerance(points=points))

    proven = next(n for n in range(1, 10_000) if test.evidence(Counts(canary_good=n)) >= math.log(1 / 0.05))

    assert proven <= clean
    assert proven >= 0.85 * clean


def test_one_per_cent_is_excluded_by_368_clean_answers_at_most():
    """
    Half of the capital bets on none at all, and alone it needs 368. The other half needs more, and helps.
    """
    proven = next(n for n in range(1, 1000) if below(0.01, 0, n, TERMS) >= math.log(20))

    assert 320 <= proven <= 368


@given(rate=st.floats(0.001, 0.24), bad=st.integers(0, 50), good=st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_bounds_on_one_rate_are_supermartingales(rate, bad, good):
    """
    `below` at the rate and above it, `above` at the rate and below it.
    """

    def mean(function, true):
        now = function(bad, good)
        up, down = function(bad + 1, good) - now, function(bad, good + 1) - now
        return true * math.exp(up) + (1 - true) * math.exp(down)

    for true in (rate, 2 * rate):
        assert 1 + 1e-9 >= mean(lambda b, g: below(rate, b, g, TERMS), true)
    for true in (rate, rate / 2):
        assert 1 + 1e-9 >= mean(lambda b, g: above(rate, b, g), true)


def test_the_share_of_failures_is_the_weight_for_equal_tracks():
    assert pytest.approx(0.1) == share(1, 0.1)
    assert pytest.approx(0.5) == share(9, 0.1)


def test_a_mixture_without_a_part_kept_back_begins_at_1_and_grows_with_the_canary():
    assert pytest.approx(0) == mixture(TERMS, 0.5, 0, 0)
    assert mixture(TERMS, 0.5, 1, 0) > 0 > mixture(TERMS, 0.5, 0, 1)


def test_the_harm_is_bounded_only_as_far_as_the_step_shows():
    assert pytest.approx(1) == most_excess(Counts(), TERMS)
    assert 0.06 > most_excess(Counts(0, 70, 0, 0), TERMS) > 0.03
    assert 0 > most_excess(Counts(0, 1000, 500, 500), TERMS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 0}, "alpha: expected more than 0"),
        ({"beta": 1}, "beta: expected"),
        ({"delta": -1}, "delta: expected"),
        ({"start": 1}, "start: expected"),
        ({"broken_stable": 0}, "broken_stable: expected more than 0"),
        ({"broken": ((0.01, 0.1, 0.1),)}, "broken: expected more than 0.01"),
        ({"broken": ((1.01, 0.1, 0.1),)}, "broken: expected more than 0.01 and less than 1, got 1.01"),
        ({"broken": ((1.0, 0, 0.1),)}, "broken: expected more than 0 and less than 1, got 0"),
        ({"broken": ((1.0, 0.1, 0),)}, "broken: expected more than 0 and less than 1, got 0"),
        (
            {"broken": ((1.0, 0.5, 0.1), (0.5, 0.5, 0.1))},
            "broken, start: expected more than 0 and less than 1, got 1",
        ),
        (
            {"broken": ((1.0, 0.1, 0.5), (0.5, 0.1, 0.5))},
            "broken, later: expected more than 0 and less than 1, got 1",
        ),
        ({"ceiling": math.nan}, "ceiling: expected"),
        ({"errors": Tolerance(times=1.5)}, "errors.times: expected more than 1.5"),
        ({"slow": Tolerance(points=0)}, "slow.points: expected"),
        ({"disagreement": 0.25}, "disagreement: expected more than 0 and less than 0.25"),
        ({"shift": 1}, "shift: expected more than 1"),
        ({"shift": 100}, "shift: expected more than 1 and less than 100"),
        ({"errors": Tolerance(times=100)}, "errors.times: expected more than 1.5 and less than 100"),
        ({"errors": Tolerance(points=1)}, "errors.points: expected more than 0 and less than 1"),
        ({"accuracy": 1}, "accuracy: expected more than 0 and less than 1"),
        ({"least": 400}, "least: expected more than 1 and less than 400"),
        ({"least": 1}, "least: expected more than 1"),
        ({"grid": 1}, "grid: expected at least 2"),
        (
            {"spreads": (Spread(0, 0.1, 2, 3, 5, 9),)},
            "spreads, above: expected more than 0 and less than 0.1",
        ),
        ({"spreads": (Spread(0.05, 1, 2, 3, 5, 9),)}, "spreads, up_to: expected more than 0 and less than 1"),
        (
            {"spreads": (Spread(0.05, 0.1, 1, 3, 5, 9),)},
            "spreads, least: expected more than 1 and less than 3",
        ),
        ({"spreads": (Spread(0.05, 0.1, 2, 3, 5, 3),)}, "spreads, ratio: expected more than 3"),
        (
            {"spreads": (Spread(0.05, 0.1, 2, 3, 0, 9),)},
            "spreads, last: expected more than 0 and less than 23",
        ),
        (
            {"spreads": (Spread(0.05, 0.1, 2, 3, 23, 9),)},
            "spreads, last: expected more than 0 and less than 23",
        ),
        ({"patience": 0}, "patience: expected"),
        ({"proof": ((1.0, 0.4),)}, "proof: expected weights that sum to 1, got 0.4"),
        ({"budget_none": 0.6}, "budget and budget_none: expected weights that sum to 1, got 1.1"),
    ],
)
def test_terms_without_error_rates_are_refused(changed, message):
    with pytest.raises(UsageError) as raised:
        Terms(**changed)

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "changed",
    [
        {"patience": 0.5},
        {"shift": 1.01},
        {"shift": 99.9},
        {"grid": 2, "spreads": ()},
        {"spreads": (Spread(1e-9, 0.999, 1.01, 1.02, 1, 1.03),)},
        {"spreads": (Spread(0.05, 0.1, 2, 3, 22, 9),)},
        {"least": 1.01},
        {"disagreement": 0.249},
        {"broken": ((1.0, 0.99, 0.99),)},
        {"broken": ((0.011, 0.01, 0.01),)},
        {"errors": Tolerance(times=1.51, points=1e-6)},
    ],
)
def test_terms_within_their_limits_are_taken(changed):
    terms = Terms(**changed)

    assert pytest.approx(1) == sum(terms.weights)
    assert pytest.approx((1, 1)) == tuple(map(sum, zip(*terms.shares, strict=True)))
