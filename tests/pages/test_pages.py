"""
The reports in a real browser: nothing is loaded, nothing is cut off, everything can be read, on a phone as well.
"""

import random
from dataclasses import replace

import pytest
from planned import plan
from watched import approving, only, watched
from zero_drop_page import zero_drop

from tfcanary.check.finding import Finding
from tfcanary.check.report import Report, split_request
from tfcanary.check.subject import Options
from tfcanary.contract import Api
from tfcanary.judge import split
from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.log import Log
from tfcanary.judge.look import Look
from tfcanary.judge.plan import PROVABLE, SHARES, Plan
from tfcanary.judge.verdict import Outcome
from tfcanary.report.html import html
from tfcanary.report.rollout_page import live_page, record_page
from tfcanary.report.verdict import verdict_page
from tfcanary.rollout.record import record
from tfcanary.routing.parse import from_values
from tfcanary.traffic.records import NO_CODE, Recorder

PHONE, DESKTOP = 390, 1280
LONG = "a-release-with-a-name-that-is-as-long-as-any-and-has-no-place-to-break-it" * 3


def route(name, weights, **match):
    return {"name": name, "weights": weights, **({"match": match} if match else {})}


VALUES = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {}, "canary": {}},
    "routing": {
        "routes": [
            route("europe", {"stable": 70, "canary": 30}, regions=["europe-west1", "europe-west4"]),
            route("everyone", {"stable": 90, "canary": 10}),
        ]
    },
}


def records(n):
    draw = random.Random(3)  # noqa: S311 - a picture to look at
    recorder = Recorder()
    for i in range(n):
        failed = i % 50 == 49
        recorder.add(
            due=i / 100,
            latency=0.001 * draw.lognormvariate(2, 1),
            request=split_request(draw.choice(["europe", "everyone"])),
            code=draw.choice([NO_CODE, 0]),
            track="" if failed else draw.choices(["stable", "canary"], [9, 1])[0],
            error=f"503 {LONG}" if failed else "",
        )
    return recorder.records()


@pytest.fixture(scope="module")
def page():
    """
    A report with everything in it: rows of all kinds, long words, charts, failures.
    """
    parsed = from_values(VALUES)
    counted = split.judge(split.plan({"stable": 90, "canary": 10}), {"stable": 900, "canary": 100})
    row = Finding(
        "split",
        "everyone",
        Api.REST,
        Outcome.HELD,
        "canary 10 %",
        "canary 100, stable 900",
        1000,
        shares=counted.shares,
    )
    made = Report(
        model="resnet",
        gateway="gateway.example.test:80",
        host=None,
        hosts=("*",),
        release=LONG,
        routes=parsed.routes,
        revision="7dd2b2ce81",
        options=Options(),
        findings=(
            row,
            replace(row, outcome=Outcome.FAILED, observed=LONG, detail=LONG),
            replace(row, outcome=Outcome.NOT_ENOUGH, api=Api.GRPC),
        ),
        lost=(LONG,),
        seconds=12.0,
        records=records(1000),
    )
    return html(made)


@pytest.fixture(scope="module")
def drops():
    figures = {
        "requests": 10_000,
        "failed": 1,
        "perSecond": 100.0,
        "latencyMs": {"p50": 3.1, "p99": 21.5, "max": 80.0},
        "tracks": {"stable": 9000, "canary": 1000},
        "samples": [f"at 1 s 503 {LONG}"],
    }
    phases = [
        {"about": f"{one} → {other}", **figures} for one in ("stable", LONG) for other in ("canary-10", LONG)
    ]
    run = {
        "name": "every_ordered_pair",
        "all": figures,
        "phases": phases,
        "changeSeconds": [3.1],
        "propagationSeconds": [0.3],
        "notes": LONG,
    }
    return zero_drop([run, run])


@pytest.fixture(scope="module")
def verdict():
    """
    A verdict with every signal, several weights, a gap, long names, and a cohort that is worse.
    """
    log = Log(Plan(signals=tuple(SHARES), required=PROVABLE))
    draw = random.Random(4)  # noqa: S311 - a picture to look at
    for second in range(1, 120):
        weight = 5 if second < 60 else 25
        mine = 2 * weight
        bad, worse = (
            sum(draw.random() < 0.05 for _ in range(mine)),
            sum(draw.random() < 0.01 for _ in range(200)),
        )
        counts = Counts(bad, mine - bad, worse, mine * (100 - weight) // weight - worse)
        look = Look(
            float(second),
            weight,
            counts,
            slow=Counts(0, counts.canary, 0, counts.stable),
            pairs=Pairs(9, 1, 1, 0, 9),
            classes={LONG: (mine, 0), "cat": (0, counts.stable)} if second > 100 else {},
            cohorts={LONG: counts, "asia": Counts(0, counts.canary, 0, counts.stable)},
            problem=LONG if second == 30 else "",
        )
        log.look(look)
    return verdict_page(log)


@pytest.fixture(scope="module")
def rollouts():
    """
    A rollout with every signal, long names, and events that lie close together; in the middle of it, and its end.
    """
    given = plan(
        judge={"signals": list(SHARES), "required": ["errors"]},
        probes={"perSecond": 1},
        approvals=[0, 25, "promotion"],
    )
    states = watched(given, do=approving(LONG))
    live = replace(only(states, awaiting="beyond 25 %"), paused=LONG, driver=LONG)
    return given, live.noted(f"paused by {LONG}"), states[-1]


@pytest.fixture(scope="module")
def live(rollouts):
    given, state, _ = rollouts
    return live_page(given, state, state.now + 5, 3600)


@pytest.fixture(scope="module")
def ended(rollouts):
    given, _, state = rollouts
    return record_page(record(given, state, {LONG: f"sha256:{64 * '0'}"}))


@pytest.fixture(params=["page", "drops", "verdict", "live", "ended"])
def text(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["page", "verdict", "live", "ended"])
def charted(request):
    return request.getfixturevalue(request.param)


WIDTHS = pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])


@WIDTHS
def test_nothing_is_loaded_and_nothing_is_complained_about(opened, text, width):
    browser = opened(text, width)

    assert [] == browser.execute_script(
        "return performance.getEntriesByType('resource').map(one => one.name)"
    )
    assert [] == browser.get_log("browser")


@WIDTHS
def test_nothing_is_wider_than_the_screen(opened, text, width):
    """
    No scrolling sideways, and no element that reaches out of the page.
    """
    browser = opened(text, width)

    out = browser.execute_script(
        "return [...document.body.querySelectorAll('*')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.tagName + ' ' + one.textContent.slice(0, 40))"
    )
    assert [] == out
    assert width >= browser.execute_script("return document.documentElement.scrollWidth")


@WIDTHS
def test_all_text_is_large_enough_to_read(opened, text, width):
    """
    In the charts, which shrink with the page, as well: a line of text is at least 11 pixels high on the screen.
    """
    browser = opened(text, width)

    heights = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, p, li, td, dt, dd, summary, .claim span, figcaption, svg text')]"
        ".filter(one => one.textContent.trim() && getComputedStyle(one).display != 'none')"
        ".filter(one => one.tagName == 'SUMMARY' || !one.closest('details:not([open])'))"
        ".map(one => one.getBoundingClientRect().height)"
    )
    assert 10 < len(heights)
    assert 11 <= min(heights)


@WIDTHS
def test_charts_are_drawn_inside_their_frames(opened, page, width):
    """
    Two splits and the latencies, each with a line for every API and track, none outside.
    """
    browser = opened(page, width)

    charts = browser.execute_script(
        "return [...document.querySelectorAll('figure > svg')].map(svg => { const frame = svg.getBoundingClientRect();"
        "  return [...svg.querySelectorAll('polyline')].map(line => { const box = line.getBoundingClientRect();"
        "    return box.width > 50 && box.left >= frame.left && box.right <= frame.right && box.top >= frame.top - 1"
        "      && box.bottom <= frame.bottom; }); })"
    )
    assert [[True] * 2, [True] * 2, [True] * 4] == charts


@WIDTHS
def test_evidence_is_drawn_between_its_bounds(opened, verdict, width):
    """
    Two charts: all signals together and five of them, and the four that can be proven; each with two levels.
    """
    browser = opened(verdict, width)

    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure > svg')].map(svg =>"
        " [svg.querySelectorAll('polyline').length, svg.querySelectorAll('line.wanted').length])"
    )
    assert [[6, 2], [4, 2]] == drawn


@WIDTHS
def test_labels_of_a_chart_do_not_overlap(opened, charted, width):
    browser = opened(charted, width)

    overlapping = browser.execute_script(
        "const found = [];"
        "for (const svg of document.querySelectorAll('figure > svg')) {"
        "  const texts = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);"
        "  for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {"
        "    const [a, b] = [texts[i][1], texts[j][1]];"
        "    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);"
        "    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);"
        "    if (across > 1 && down > 4) found.push(texts[i][0] + ' and ' + texts[j][0]); } }"
        "return found;"
    )
    assert [] == overlapping


def test_the_reason_of_a_verdict_is_on_a_phones_first_screen(opened, verdict):
    browser = opened(verdict, PHONE)

    bottom = browser.execute_script(
        "return document.querySelector('.verdict').getBoundingClientRect().bottom"
    )
    assert 844 > bottom
    assert "Roll the canary back" == browser.title


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(opened, text, scheme):
    """
    A contrast of at least 4.5 (WCAG 2, AA) for everything written, in both schemes.
    """
    browser = opened(text, DESKTOP, scheme)

    pairs = browser.execute_script(
        "const behind = one => { while (one) { const seen = getComputedStyle(one).backgroundColor;"
        "  if (!seen.startsWith('rgba(0, 0, 0, 0')) return seen; one = one.parentElement; } return 'rgb(255, 255, 255)'; };"
        "return [...document.querySelectorAll('h1, h2, p, li, td, th, dt, dd, summary, .claim span, figcaption')].filter(one => one.textContent.trim())"
        ".map(one => [getComputedStyle(one).color, behind(one)]);"
    )
    assert 10 < len(pairs)
    assert 4.5 <= min(contrast(*pair) for pair in pairs)


def contrast(one, other):
    """
    The ratio of two colours' luminance (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
    """

    def luminance(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_did_not_hold_is_seen_first(opened, page):
    """
    The verdict is on a phone's first screen, and the first row is what failed.
    """
    browser = opened(page, PHONE)

    bottom, first = browser.execute_script(
        "return [document.querySelector('.verdict').getBoundingClientRect().top, document.querySelector('td').textContent]"
    )
    assert 844 > bottom
    assert "failed" == first
