"""
A rollout as a page: what it says, in which order, and that nothing in it is mark-up of others.
"""

import html
import json
import re
import time
from dataclasses import replace

import pytest
from planned import plan
from rollout_cluster import As, World
from watched import approving, only, watched

from tfcanary.errors import UsageError
from tfcanary.judge.judge import Judge
from tfcanary.judge.plan import Plan as JudgePlan
from tfcanary.judge.terms import Terms
from tfcanary.report.evidence import Bar, scale, shown
from tfcanary.report.rollout_page import live_page, record_page, unreachable_page
from tfcanary.report.rollout_plot import happened, weights_plot
from tfcanary.report.svg import drawn
from tfcanary.report.times import clock, lasting, stamp, utc
from tfcanary.rollout import verbs
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.record import record

PLAN = plan(judge={"signals": ["errors", "slow", "classes"]}, approvals=[25, "promotion"])
BAD = plan(probes={"count": 0})
EVIL = "<script>alert(1)</script><b>&\"'\x1b\u202e"
FACTS = {"chart": "sha256:1", "image": "sha256:2"}


@pytest.fixture(scope="module")
def states():
    """
    A rollout that bob lets pass two gates, and that dora pauses in between.
    """
    approve, paused = approving("bob"), []

    def do(cluster, state):
        approve(cluster, state)
        if state.weight == 50 and not paused:
            paused.append(cluster.time)
            verbs.ask(As(cluster, "dora"), verbs.PAUSE, "dora")
        elif state.paused and cluster.time - paused[0] > 8:
            verbs.ask(As(cluster, "dora"), verbs.RESUME, "dora")

    return watched(PLAN, do=do)


@pytest.fixture(scope="module")
def refused():
    return watched(BAD, World(bad={3: 0.2}))


def recorded(given, state, **keys):
    return json.loads(json.dumps({**record(given, state, FACTS), **keys}))


def text_of(page):
    """
    The page's text, without tags and with single spaces.
    """
    body = re.sub(r"<(style|svg).*?</\1>", "", page[page.index("<style>") :], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_record_begins_with_its_end_in_one_sentence(states, refused):
    held, failed = record_page(recorded(PLAN, states[-1])), record_page(recorded(BAD, refused[-1]))

    assert '<p class="verdict held">Succeeded: version 3 is on stable</p>' in held
    assert re.search(
        r'<p class="verdict failed">Rolled back: errors worse than stable: canary \d+ of ', failed
    )
    assert ("<dt>verdict</dt>" in held, "<dt>verdict</dt>" in failed) == (True, False)
    heads = re.findall(r"<h[12]>(.*?)</h[12]>", held)
    assert ["resnet: version 3, succeeded", "Shown", "Not shown", "Weight over time", "Evidence"] == heads[:5]


def test_a_promotion_without_a_proof_says_so_first_and_is_not_green(states):
    page = record_page(recorded(PLAN, states[-1], withoutProof="carla"))

    said = "Succeeded: version 3 is on stable; carla promoted it without a proof"
    assert f'<p class="verdict open">{said}</p>' in page


def test_a_record_has_what_was_shown_and_not_who_let_it_pass_and_what_was_released(states):
    made = recorded(PLAN, states[-1])
    text = text_of(record_page(made))

    for line in (*made["shown"], *made["notShown"], made["verdict"], made["plan"]["digest"]):
        assert line in text
    at = {one["gate"]: utc(one["at"]) for one in made["approvals"]}
    assert f"beyond 25 % bob {at['beyond 25 %']} promotion bob {at['promotion']}" in text
    assert f"by ann at {utc(made['startedAt'])}" in text
    assert "chart sha256:1 image sha256:2" in text
    for one in made["weights"]:
        assert (
            f"{one['weight']:g} % {utc(one['askedAt'])} after 2 s at 3 pods {one['verdict']}".strip() in text
        )
    for event in made["events"]:
        assert f"{utc(event['at'])}: {event['text']}" in text


def test_plan_and_baseline_are_folded(states):
    page = record_page(recorded(PLAN, states[-1]))

    folded = re.findall(r"<details><summary>(.*?)</summary>(?:<pre>)?(.*?)</details>", page, re.DOTALL)
    assert ["The last", "The plan", "What the"] == [head[:8] for head, _ in folded]
    assert "release: resnet\n" in folded[1][1]
    assert "tag: 2.20.0\n" in folded[2][1]
    assert "2.20.0" not in re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)


def test_the_plot_is_stairs_of_what_was_asked_and_seen(states):
    made = recorded(PLAN, states[-1])
    chart = weights_plot(made, happened(made["events"]), made["endedAt"])
    lines = dict(chart.lines)

    for name, key in (("asked for", "askedAt"), ("seen at every gateway pod", "seenAt")):
        points = [(round(60 * x + made["startedAt"], 3), y) for x, y in lines[name]]
        assert (made["startedAt"], 0) == points[0]
        assert (made["endedAt"], 0) == points[-1]
        assert [(one[key], one["weight"]) for one in made["weights"]] == points[2:-1:2]
        # A weight holds until the next one: each stair begins at the height of the one before.
        assert [y for _, y in points[:-1:2]] == [y for _, y in points[1::2]]
    assert 100 == chart.y_most


def test_a_weight_that_was_never_seen_is_not_in_the_seen_line(states):
    state = only(states, weight=25, phase=Phase.WEIGH_SEEN)
    made = recorded(PLAN, state)
    lines = dict(weights_plot(made, [], state.now + 9).lines)

    assert (25, 5) == (lines["asked for"][-1][1], lines["seen at every gateway pod"][-1][1])
    assert "not at every gateway pod" in text_of(live_page(PLAN, state, state.now, 5))


def test_a_small_weight_is_seen_in_the_plot(refused):
    made = recorded(BAD, refused[-1])
    chart = weights_plot(made, [], made["endedAt"])

    assert max(one["weight"] for one in made["weights"]) <= chart.y_most <= 20


def test_what_people_did_is_marked_in_the_plot_and_listed_below(states):
    made = recorded(PLAN, states[-1])
    marked = happened(made["events"])
    page = record_page(made)

    told = ["bob approved: beyond 25 %", "paused by dora", "resumed by dora", "bob approved: promotion"]
    assert told == [text for _, text in marked]
    assert len(told) == page.count('<line class="mark"')
    assert told == [
        html.unescape(one)[25:]
        for one in re.findall(r"<li>(.*?)</li>", page.partition("<ol>")[2].partition("</ol>")[0])
    ]


@pytest.mark.parametrize(
    ("at", "labels"),
    [
        ([10, 60, 90], ["1", "2", "3"]),
        ([10, 11, 12, 60], ["1 to 3", "", "", "4"]),
        ([], []),
        ([0, 0], ["1 to 2", ""]),
    ],
)
def test_marks_that_lie_close_share_a_label(at, labels):
    made = {"startedAt": 0.0, "weights": [{"askedAt": 1.0, "seenAt": None, "weight": 5}]}
    chart = weights_plot(made, [(float(one), "x") for one in at], 100.0)

    assert labels == [label for _, label in chart.marks]
    assert len(at) == str(drawn(chart)).count('<line class="mark"')


def test_bars_end_where_the_evidence_is_and_carry_their_bounds(states):
    made = recorded(PLAN, states[-1])
    page = record_page(made)

    bars = re.findall(
        r'aria-label="evidence that it is (worse|not worse): (\S+) of (\S+)">\s*<rect class="full (\w*)" width="([\d.]+)".*?'
        r'<line class="bound" x1="([\d.]+)"',
        page,
        re.DOTALL,
    )
    claims = [
        ("worse", "100"),
        ("worse", "160"),
        ("not worse", "20"),
        ("worse", "400"),
        ("not worse", "20"),
        ("worse", "800"),
    ]
    assert claims == [(claim, bound) for claim, _, bound, _, _, _ in bars]
    assert ["", "", "held", "", "", ""] == [mark for _, _, _, mark, _, _ in bars]
    errors = bars[2]
    assert float(errors[4]) > float(errors[5]) == pytest.approx(100 * (2 + 1.30103) / 6, abs=0.01)


def test_a_canary_that_is_worse_has_a_red_bar(refused):
    assert '<rect class="full failed"' in record_page(recorded(BAD, refused[-1]))


def test_the_scale_has_room_for_any_bound():
    from_10_to_15 = scale(shown_of(1e-15))

    assert (0.0, 1.0) == (from_10_to_15.part(-99), from_10_to_15.part(99))
    assert 0.5 < from_10_to_15.part(15) < 1


def shown_of(alpha):
    ruling = Judge(JudgePlan(terms=Terms(alpha=alpha))).ruling()
    return shown(ruling, Terms(alpha=alpha))


def test_a_bound_is_reached_by_what_reaches_it():
    (one,) = shown_of(0.01)

    assert [False, False] == [bar.reached for bar in one.bars]
    assert [("failed", "held"), ("", "")] == [
        tuple(Bar(claim, 2.0, 2.0, settled).mark for claim in ("worse", "not worse"))
        for settled in (True, False)
    ]
    assert ["1 of 100", "0.0123 of 10", "12,300 of 10", ">1e9 of 10"] == [
        Bar("worse", *powers, reached=False).words for powers in ((0, 2), (-1.91, 1), (4.09, 1), (12, 1))
    ]


def test_a_live_page_loads_itself_again_until_the_end(states):
    state = only(states, awaiting="beyond 25 %")
    page = live_page(PLAN, state, state.now + 1, 4.2)

    assert '<meta http-equiv="refresh" content="5">' in page
    assert "Held: awaits an approval: beyond 25 %" in page
    assert state.verdict in text_of(page)
    assert f"As of {utc(state.now + 1)}. This page loads itself again every 5 s." in text_of(page)
    ended = live_page(PLAN, states[-1], states[-1].now + 99, 5)
    assert 'http-equiv="refresh"' not in ended
    assert "this page does not change any more" in ended
    assert 'http-equiv="refresh"' not in record_page(recorded(PLAN, states[-1]))


def test_a_live_page_does_not_show_what_the_release_was_given(states):
    values = {**states[0].baseline.values, "secret": "s3cr3t-of-the-release"}
    state = replace(states[-1], baseline=replace(states[-1].baseline, values=values))

    assert "s3cr3t" not in live_page(PLAN, state, state.now, 5)
    assert "s3cr3t" in record_page(recorded(PLAN, state))


def test_every_state_of_a_rollout_has_a_page(states, refused):
    for given, seen in ((PLAN, states), (BAD, refused)):
        for state in seen[::20]:
            assert live_page(given, state, state.now, 5).rstrip().endswith("</html>")
    begun = live_page(PLAN, states[0], states[0].now, 5)
    assert "No weight was asked for yet: the canary got no traffic." in begun


def test_what_others_wrote_is_text_and_no_markup(states):
    plain = recorded(PLAN, states[-1])
    spoofed = recorded(
        PLAN,
        states[-1],
        run=EVIL,
        release=EVIL,
        reason=EVIL,
        startedBy=EVIL,
        withoutProof=EVIL,
        verdict=EVIL,
        facts={EVIL: EVIL},
        shown=[EVIL],
        notShown=[EVIL],
        events=[{"at": one["at"], "text": EVIL} for one in plain["events"]],
        approvals=[{"gate": EVIL, "by": EVIL, "at": plain["startedAt"]}],
        weights=[{**one, "verdict": EVIL} for one in plain["weights"]],
        baseline={"revision": 7, "values": {EVIL: EVIL}},
        plan={"digest": plain["plan"]["digest"], "document": {**plain["plan"]["document"], EVIL: EVIL}},
    )
    signal = {**next(iter(plain["ruling"]["signals"].values())), "counts": EVIL}
    spoofed["ruling"]["signals"] = {EVIL: signal}
    state = replace(
        only(states, awaiting="beyond 25 %").noted(EVIL),
        by=EVIL,
        hold=EVIL,
        verdict=EVIL,
        driver=EVIL,
        run=EVIL,
    )

    for page in (record_page(spoofed), live_page(PLAN, state, state.now, 5), unreachable_page(EVIL, 5)):
        assert "<script" not in page
        assert "<b>&amp" not in page
        assert "&lt;script&gt;" in page
        assert "\x1b" not in page
        assert "\u202e" not in page


def test_nothing_is_loaded_from_elsewhere(states):
    state = only(states, awaiting="beyond 25 %")
    for page in (
        record_page(recorded(PLAN, states[-1])),
        live_page(PLAN, state, state.now, 5),
        unreachable_page("x", 5),
    ):
        assert "default-src 'none'; style-src 'unsafe-inline'" in page
        assert [] == re.findall(
            r"(?:src|href|action|url)\s*[=(]|https?://|@import|<script|<link|<img|<iframe", page
        )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"end": "lost"}, "release record: end: expected "),
        ({"weights": [{"weight": 5}]}, "release record: weights[0]"),
        ({"schema": "other/1"}, "release record: schema: expected "),
        (
            {"ruling": {}},
            "release record: expected a plan with alpha and beta and the judge's ruling, got KeyError",
        ),
        ({"ruling": {"signals": {"errors": {}}}}, "release record: expected a plan with alpha and beta"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(states, change, line):
    with pytest.raises(UsageError) as refused:
        record_page(recorded(PLAN, states[-1], **change))

    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_times_are_in_utc_whatever_the_machine_says(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    told = utc(1_800_000_000), stamp(1_800_000_000), clock(1_800_000_000)
    monkeypatch.undo()
    time.tzset()

    assert ("2027-01-15 08:00:00 UTC", "2027-01-15T08:00:00Z", "08:00:00") == told


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90000, "25 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, words):
    assert words == lasting(seconds)
