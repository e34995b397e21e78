"""
The page of a rollout in a real browser: as it is served, and as its record is kept.
"""

import json
from dataclasses import replace

import pytest
from planned import plan
from selenium.webdriver.support.wait import WebDriverWait
from watched import approving, only, watched

from tfcanary.errors import UnreachableError
from tfcanary.report.rollout_page import live_page, record_page
from tfcanary.report.serve import serving
from tfcanary.rollout.record import record

PHONE, DESKTOP = 390, 1280
PLAN = plan(judge={"signals": ["errors", "slow", "classes"]}, approvals=[25])
EVIL = '<img src="https://evil.example/x" onerror="document.title = 1"><script>document.title = 2</script>'


@pytest.fixture(scope="module")
def states():
    return watched(PLAN, do=approving("bob"))


@pytest.fixture(scope="module")
def ended(states):
    made = json.loads(json.dumps(record(PLAN, states[-1], {})))
    made["baseline"]["values"]["note"] = 300 * "x"
    return record_page(made)


def test_a_served_page_follows_its_rollout_and_asks_nobody_else(browser, states):
    """
    It loads itself again, over an error as well, until the rollout has ended.
    """
    browser.get_log("browser")
    waiting = only(states, awaiting="beyond 25 %")
    pages = [waiting, UnreachableError("kubernetes: no answer"), states[-1]]

    def page():
        state = pages.pop(0) if len(pages) > 1 else pages[0]
        if isinstance(state, UnreachableError):
            raise state
        return live_page(PLAN, state, state.now + 1, 1)

    with serving("127.0.0.1:0", page, refresh_seconds=1) as url:
        browser.get(url)
        titles = [browser.title]
        for _ in range(2):
            WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda one: one.title not in titles)
            titles.append(browser.title)
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(one => one.name)"
        )
        complaints = [one["message"] for one in browser.get_log("browser")]

    assert [
        "resnet: version 3, stepping",
        "The rollout cannot be read",
        "resnet: version 3, succeeded",
    ] == titles
    assert [] == loaded
    # The 503 itself, and the icon that a browser looks for.
    assert [] == [one for one in complaints if "503" not in one and "favicon.ico" not in one]


def test_what_others_wrote_runs_nothing(opened, states):
    state = replace(only(states, awaiting="beyond 25 %").noted(EVIL), by=EVIL, hold=EVIL, verdict=EVIL)

    browser = opened(live_page(PLAN, state, state.now, 3600), DESKTOP)

    assert "resnet: version 3, stepping" == browser.title
    assert 0 == browser.execute_script("return document.querySelectorAll('img, script').length")
    assert [] == browser.get_log("browser")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_plan_and_baseline_open_without_reaching_out_of_the_page(opened, ended, width):
    browser = opened(ended, width)

    assert not browser.execute_script(
        "return [...document.querySelectorAll('details')].some(one => one.open)"
    )
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert 3 == browser.execute_script(
        "return [...document.querySelectorAll('pre, details ul')].filter(one => one.getBoundingClientRect().height > 50).length"
    )
    assert width >= browser.execute_script("return document.documentElement.scrollWidth")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_bound_is_drawn_inside_its_bar(opened, ended, width):
    browser = opened(ended, width)

    inside = browser.execute_script(
        "return [...document.querySelectorAll('.claim svg')].map(svg => { const bar = svg.getBoundingClientRect();"
        " const [full, bound] = ['rect', 'line'].map(one => svg.querySelector(one).getBoundingClientRect());"
        " return bar.width > 100 && full.width > 1 && full.right <= bar.right + 1 && bound.left > bar.left && bound.right < bar.right"
        " && bound.height > 5; })"
    )
    assert [True] * 6 == inside


def test_the_end_and_what_was_shown_are_on_a_phones_first_screen(opened, ended):
    browser = opened(ended, PHONE)

    ends = browser.execute_script(
        "return [...document.querySelectorAll('.verdict, h2')].slice(0, 2).map(one => one.getBoundingClientRect().bottom)"
    )
    assert 844 > max(ends)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_event_is_marked_inside_the_plot(opened, ended, width):
    browser = opened(ended, width)

    marks = browser.execute_script(
        "const plot = document.querySelector('figure > svg'), frame = plot.getBoundingClientRect();"
        "return [...plot.querySelectorAll('line.mark')].map(one => { const box = one.getBoundingClientRect();"
        " return box.left > frame.left && box.right < frame.right && box.height > frame.height / 2; })"
    )
    assert [True] == marks
