"""
A rollout on a terminal, in lines, as a table and as JSON.
"""

import io
import itertools
import json
import re
from dataclasses import replace

import pytest
from planned import plan
from rich.console import Console
from rollout_cluster import As, FakeCluster, World
from watched import approving, only, watched

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.report.rollout_table import history_table, state_json, state_table
from tfcanary.report.rollout_view import lines, view
from tfcanary.report.times import clock, stamp
from tfcanary.rollout import verbs
from tfcanary.rollout.phases import Phase, Stage

PLAN = plan(judge={"signals": ["errors", "slow", "classes"]}, approvals=[25])
EVIL = "\x1b[2J[red]eve[/red]\nspoof\u202e"


@pytest.fixture(scope="module")
def states():
    """
    A rollout that waits for an approval and succeeds.
    """
    return watched(PLAN, do=approving("bob"))


@pytest.fixture(scope="module")
def refused():
    """
    A rollout whose canary fails every fifth request.
    """
    return watched(plan(probes={"count": 0}), World(bad={3: 0.2}))


def printed(state, now=None, *, given=PLAN, width=100, encoding="utf-8"):
    with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as file:
        console = Console(
            file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False
        )
        console.print(view(given, state, state.now + 1 if now is None else now))
        file.flush()
        return file.buffer.getvalue().decode(encoding)


def fact(text, name):
    """
    A fact of the view, its lines joined.
    """
    found = re.search(rf"^{name} +(.*(?:\n {{6,}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else None


def seen_at(state):
    asked, seen = clock(state.steps[-1].asked), clock(state.steps[-1].seen)
    return f"{state.weight} % asked for at {asked}, seen at all 3 gateway pods at {seen} UTC"


def judging(states, weight):
    """
    The last state before the judge went on from a weight.
    """
    return [one for one in states if one.weight == weight and one.phase is Phase.JUDGE][-2]


def test_a_view_says_where_a_rollout_is_and_since_when(states):
    state = only(states, weight=25, phase=Phase.JUDGE)
    text = printed(state, state.entered + 83)

    assert "resnet-3-7: resnet, from version 1 to 3" == fact(text, "rollout")
    assert f"stepping, judge for 1 min 23 s, since {clock(state.since)} UTC" == fact(text, "stage")
    assert seen_at(state) == fact(text, "weight")
    assert "100 requests a second" == fact(text, "traffic")
    assert state.verdict in " ".join(text.split())
    assert "08:00:15  change the weight\n" in re.sub(r" +\n", "\n", text)


def test_a_weight_that_no_gateway_showed_yet_is_not_called_seen(states):
    state = only(states, weight=25, phase=Phase.WEIGH_SEEN)

    asked = clock(state.steps[-1].asked)
    assert f"25 % asked for at {asked}, not seen at every gateway pod yet" == fact(printed(state), "weight")


def test_each_claim_has_a_bar_and_its_bound(states):
    """
    A share of alpha makes a signal's own bound higher; what reached its bound is full beyond it.
    """
    text = printed(only(states, stage=Stage.SUCCEEDED))

    assert re.search(r"all signals\n  worse +█+·+│·+  0\.\d+ of 100\n", text)
    assert re.search(
        r"errors, proven: canary .*\n  worse +█+·+│·+  0\.\d+ of 160\n  not worse +█+│█+·*  \S+ of 20\n", text
    )
    assert re.search(r"classes, watched: .*\n  worse +█+·+│·+  1 of 800\n\n", text)


def test_bars_grow_with_the_logarithm_of_the_evidence(states):
    states = [one for one in states if one.judge]
    bars = [
        re.search(r"errors, .*\n  worse .*\n  not worse +(█*)[^ ]*  (\S+) of", printed(one)) for one in states
    ]
    pairs = [(float(found[2].lstrip(">").replace(",", "")), len(found[1])) for found in bars]

    full = dict(pairs)
    assert 13 == next(length for evidence, length in pairs if evidence == 1)
    assert [full[one] for one in sorted(full)] == sorted(full[one] for one in full)


def test_what_holds_a_rollout_is_said_once(states):
    state = only(states, awaiting="beyond 25 %")

    held = [line.rstrip() for line in printed(state).splitlines() if line.startswith("held:")]
    assert ["held: awaits an approval: beyond 25 %"] == held
    assert "held: paused by bob\n" in re.sub(r" +\n", "\n", printed(replace(state, paused="bob")))
    out = replace(state, outage=state.now - 20)
    assert "held: the cluster does not answer, for 21 s of the 5 min allowed" in printed(out)
    assert "nothing was heard of its driver laptop for 1 min 1 s" in printed(state, state.now + 61)
    assert "nothing was heard" not in printed(state, state.now + 59)


def test_the_time_until_a_decision_is_an_interval_of_the_outlook(states):
    state = judging(states, 50)
    said = fact(printed(state), "decision")

    found = re.fullmatch(
        r"errors proven in (?:(\d+) min )?(?:(\d+) s )?to (?:(\d+) min )?(?:(\d+) s)?: half and 95 % of all canaries that are "
        r"as good as stable, at 50 % of 100 requests a second, of which about [\d.]+ % fail",
        said,
    )
    least, most = (60 * int(found[i] or 0) + int(found[i + 1] or 0) for i in (1, 3))
    proven = only(states, weight=90, phase=Phase.WEIGH)
    assert 0 < least < most
    assert state.now + most > proven.now


def test_where_no_decision_can_be_foreseen_it_says_so(states):
    state = judging(states, 50)
    baking = [one for one in states if one.baking and one.phase is Phase.JUDGE]

    def said(one, **keys):
        return fact(printed(replace(one, **keys)), "decision")

    assert "none is due in this phase" == said(only(states, phase=Phase.DEPLOY))
    assert "nothing can be said: no traffic was seen" == said(state, per_second=0.0)
    assert "nothing can be said: no answers at 25 % yet" == said(state, weight=25)
    assert "nothing can be said: stable fails too" == said(state, stuck=True)
    assert "the bake ends in 10 s" == fact(printed(baking[-1], baking[-1].since + 50), "decision")
    assert "the bake is over" == fact(printed(baking[-1], baking[-1].since + 61), "decision")
    assert fact(printed(states[-1]), "decision") is None


def test_a_canary_that_takes_longer_than_others_has_no_forecast():
    """
    Once it has answered more than 95 % of equal canaries need, the forecast says nothing of it.
    """
    bad = World(bad={1: 0.001, 2: 0.001, 3: 0.0055})
    given = plan(limits={"most": "10m"}, steps=[50])
    states = watched(given, bad)

    assert Stage.ROLLED_BACK is states[-1].stage
    assert fact(printed(judging(states, 50), given=given), "decision").startswith(
        "nothing can be said: 95 % of all canaries that are as good as stable"
    )


def test_what_others_wrote_cannot_control_the_terminal(states):
    state = only(states, awaiting="beyond 25 %")
    spoofed = replace(
        state.noted(EVIL), by=EVIL, paused=EVIL, verdict=EVIL, hold=EVIL, driver=EVIL, abort=EVIL
    )

    for text in (
        printed(spoofed),
        str(state_table(PLAN, spoofed, state.now)),
        "\n".join(lines(None, spoofed)),
    ):
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
        assert "\nspoof" not in text
        assert "[red]eve[/red]" in text
    ended = replace(spoofed, earlier=spoofed.as_earlier(), phase=Phase.FAILED, reason=EVIL, run=EVIL)
    assert "\x1b" not in str(history_table(ended))


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_view_fits_its_terminal(states, refused, width):
    for given, seen in ((PLAN, states), (plan(probes={"count": 0}), refused)):
        for state in seen[::25] + seen[-1:]:
            assert width >= max(len(line) for line in printed(state, given=given, width=width).splitlines())


def test_a_terminal_without_blocks_gets_ascii():
    ascii_only = plan(release="resnet", judge={"signals": ["errors"]})
    state = watched(ascii_only)[-1]
    text = printed(replace(state, notes=()), given=ascii_only, encoding="ascii")

    assert re.search(r"worse +#+\.+\|\.+", text)


def test_evidence_of_another_plan_is_refused(states):
    with pytest.raises(UsageError, match="expected evidence of this plan"):
        view(plan(), states[-1], states[-1].now)


def told(states):
    """
    All that a watcher of these states is told.
    """
    found = lines(None, states[0])
    for before, after in itertools.pairwise(states):
        found += lines(before, after)
    return found


def test_every_event_is_told_once_and_in_order(states):
    found = told(states)

    assert sorted(found, key=lambda line: line[:20]) == found
    assert len(set(found)) == len(found)
    assert all(re.match(r"2027-01-15T08:\d\d:\d\dZ \S", line) for line in found)
    ends = "succeeded: version 3 is on stable"
    for note in states[-1].notes:
        text = ends if note.text == "succeeded" else note.text
        assert f"{stamp(note.at)} {text}" in found
    for weight in (5, 25, 50, 90, 100, 0):
        assert 1 == sum(line.endswith(f"Z weight {weight} % asked for") for line in found)
        assert 1 == sum(line.endswith(f"Z weight {weight} % seen at 3 of 3 gateway pods") for line in found)
    assert 1 == sum(line.endswith("Z bob approved: beyond 25 %") for line in found)
    assert found[-1].endswith("Z succeeded: version 3 is on stable")


def test_a_verdict_is_told_when_it_changes_and_not_when_its_numbers_do(states):
    verdicts = [line.partition("Z verdict: ")[2][:5] for line in told(states) if "Z verdict: " in line]

    # At 0, 5, 25, 50 and 90 %, and once the last one promotes.
    assert ["wait:", "wait:", "wait:", "wait:", "promo"] == [*verdicts[:4], verdicts[-1]]
    assert len(verdicts) < 9


def test_a_watcher_who_looks_seldom_is_told_the_verdict_at_each_weight(states):
    found = lines(judging(states, 5), judging(states, 50))

    assert 1 == sum("Z verdict: wait: " in line for line in found)


def test_nothing_new_is_no_line(states):
    assert all([] == lines(state, state) for state in states)
    assert [] == lines(states[-1], replace(states[-1], now=states[-1].now + 99))
    out = replace(states[9], outage=states[9].now)
    assert [] == lines(out, replace(out, now=out.now + 9))


def test_who_joins_later_is_told_what_the_state_still_has(states):
    assert lines(None, states[-1])[0].endswith("Z started by ann")
    other = replace(states[0], run="resnet-2-1")
    assert lines(None, states[0]) == lines(other, states[0])


def test_events_that_were_dropped_meanwhile_do_not_bring_old_ones_back(states):
    """
    Of 30 kept events, a watcher that knew 20 and missed 40 is told the last 30.
    """
    known = replace(states[0], notes=())
    for n in range(20):
        known = known.noted(f"event {n}")
    later = known
    for n in range(20, 60):
        later = later.noted(f"event {n}")

    assert [f"event {n}" for n in range(30, 60)] == [line[21:] for line in lines(known, later)]
    once = known.noted("event 20")
    assert ["event 20"] == [line[21:] for line in lines(known, once)]
    assert ["event 20"] == [line[21:] for line in lines(once, once.noted("event 20"))]


def test_an_outage_is_told_when_it_begins_and_ends():
    def do(cluster: FakeCluster, state) -> None:
        if state.weight == 25 and state.phase is Phase.JUDGE and not out:
            out.append(cluster.time)
            looks = cluster.trouble

            def trouble(moment: str, call: str) -> None:
                looks(moment, call)
                if call in ("apply", "gateways") and cluster.time < out[0] + 60:
                    raise UnreachableError("timed out")

            cluster.trouble = trouble

    out = []
    found = [line[21:] for line in told(watched(PLAN, do=lambda *given: (approving_now(*given), do(*given))))]

    assert 1 == found.count("the cluster does not answer")
    assert 1 == found.count("the cluster answers again")


def approving_now(cluster, state):
    if state.awaiting:
        verbs.ask(As(cluster, "bob"), verbs.PROMOTE, "bob")


def test_the_table_of_a_state_is_a_line_for_each_fact_and_signal(states):
    state = only(states, awaiting="beyond 25 %")
    text = str(state_table(PLAN, state, state.now + 1))

    assert f"\nweight: {seen_at(state)}\n" in text
    assert "\nheld: awaits an approval: beyond 25 %\n" in text
    assert re.search(r"^errors +0\.\d+ of 160 +\S+ of 20 +required +canary ", text, re.MULTILINE)
    assert state.verdict == text.splitlines()[-1]


def test_a_rollback_is_red_and_says_why(refused):
    table = state_table(plan(probes={"count": 0}), refused[-1], refused[-1].now)

    assert "failed" == table.mark
    assert f"rolled back: {refused[-1].reason.removeprefix('roll back: ')}" == table.below[-1]
    assert "failed" == table.rows[0].mark


def test_a_promotion_without_a_proof_is_not_green(states):
    table = state_table(PLAN, replace(states[-1], anyway="carla"), states[-1].now)

    assert ("held", "open") == (state_table(PLAN, states[-1], states[-1].now).mark, table.mark)
    assert "succeeded: version 3 is on stable; promoted without a proof by carla" == table.below[-1]


def test_the_json_of_a_state_names_its_form_and_is_json(states):
    state = only(states, awaiting="beyond 25 %")
    made = state_json(state, PLAN, state.now + 1)

    assert made == json.loads(json.dumps(made, allow_nan=False))
    assert ("tfserving-canary/rollout-status/1", "resnet-3-7", 1, 3) == (
        made["schema"],
        made["run"],
        made["from"],
        made["to"],
    )
    assert ("stepping", "judge", 25, False) == (made["stage"], made["phase"], made["weight"], made["ended"])
    assert ["awaits an approval: beyond 25 %"] == made["holds"]
    assert {"weight": 25, "asked": state.steps[-1].asked} == {
        name: made["weights"][-1][name] for name in ("weight", "asked")
    }
    assert {"errors", "slow", "classes"} == set(made["ruling"]["signals"])
    assert 0 < made["expected"]["half"] < made["expected"]["most"]
    assert None is state_json(states[-1], PLAN, states[-1].now)["expected"]["half"]


def test_a_history_names_each_end(states, refused):
    later = replace(states[0], earlier=(*refused[-1].as_earlier(), *states[-1].as_earlier()))
    rows = history_table(later).rows

    assert [("resnet-3-7", "rolled back"), ("resnet-3-7", "succeeded"), ("resnet-3-7", "preparing")] == [
        row.cells[1:3] for row in rows
    ]
    assert ["failed", "held", "open"] == [row.mark for row in rows]
    assert refused[-1].reason.removeprefix("roll back: ") == rows[0].cells[3]
    assert "2027-01-15 08:00:00 UTC" in rows[2].cells[0]
