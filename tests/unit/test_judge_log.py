"""
The log replays to the same bytes, and a log that was changed is refused.
"""

import itertools
import json
import re
from pathlib import Path

import pytest
from streams import looks

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts
from tfcanary.judge.log import Log
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.judge.ruling import Action

PLAN = Plan()


def written(plan=PLAN, n=40):
    """
    The lines of a log with a change of weight, a gap and what has no number.
    """
    log = Log(plan)
    lines = [log.first_line]
    stream = looks(1, per_second=50, weight=5, canary=0.01, stable=0.01)
    lines += [log.look(look) for look in itertools.islice(stream, n)]
    more = looks(2, per_second=50, weight=50, canary=0.1, stable=0.01, start=float(n))
    lines += [log.look(look) for look in itertools.islice(more, n)]
    lines.append(log.look(Look(at=float(2 * n + 1), weight=50, errors=Counts(float("nan"), 1, 1, 1))))
    lines.append(log.look(Look(at=float(2 * n + 2), weight=50, problem="no answer")))
    return log, lines


LOG, LINES = written()


def test_a_log_replays_to_the_same_bytes():
    again = Log.replayed(f"{line}\n" for line in LINES)

    assert LOG.chain == again.chain
    assert LOG.judge.saved() == again.judge.saved()
    assert [one.as_json() for _, one in LOG.entries] == [one.as_json() for _, one in again.entries]
    assert LINES == written()[1]


def test_a_log_carries_what_a_ruling_rests_on():
    line = json.loads(LINES[60])

    assert {"look", "ruling", "chain"} == set(line)
    assert {"at", "weight", "errors"} == set(line["look"])
    assert {"action", "sentence", "at", "weight", "evidence", "pValue", "signals", "cohorts"} == set(
        line["ruling"]
    )
    assert PLAN.as_json() == json.loads(LINES[0])["plan"]


def changed(number, pattern, by):
    """
    The log with one line changed, which must make a difference.
    """
    lines = [*LINES]
    lines[number] = re.sub(pattern, by, lines[number], count=1)
    assert lines != LINES
    return lines


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (changed(20, r'"errors":\[\d+', '"errors":[9'), "log, line 21: expected"),
        (changed(20, r'"errors":\[(\d+),(\d+)', r'"errors":[\1,9\2'), "log, line 21: expected"),
        (
            changed(20, '"action":"wait"', '"action":"promote"'),
            f"log, line 21: expected {json.loads(LINES[20])['chain'][:12]}… as its digest",
        ),
        (changed(20, r'"evidence":-?0', '"evidence":1'), "log, line 21: expected"),
        (changed(20, r'"chain":"\w', '"chain":"x'), "log, line 21: expected"),
        (changed(20, r'"at":20.0', '"at":20'), "log, line 21: expected"),
        (LINES[:20] + LINES[21:], "log, line 21: expected"),
        ([*LINES[:20], LINES[21], LINES[20], *LINES[22:]], "log, line 21: expected"),
        (LINES[:20] + LINES[19:], "log, line 21: expected"),
        (changed(0, '"alpha":0.01', '"alpha":0.5'), "log, line 1: expected the digest of its plan"),
        (
            changed(0, "judge-log/3", "judge-log/2"),
            "log, line 1: expected schema tfserving-canary/judge-log/3, got 'tfserving-canary/judge-log/2'; a log is",
        ),
        (LINES[1:], "log, line 1: expected schema"),
        ([*LINES[:5], "{"], "log, line 6: expected JSON"),
        ([*LINES[:5], "[]"], "log, line 6: expected an object, got list"),
        ([*LINES[:5], "{}"], "look: expected what a judge wrote"),
        ([*LINES[:5], "[" * 100_000], f"log, line 6: expected JSON, got '{'[' * 40}'"),
        ([], "log, line 1: expected JSON"),
    ],
)
def test_a_log_that_was_changed_is_refused(lines, message):
    with pytest.raises(UsageError) as raised:
        Log.replayed(lines)

    assert str(raised.value).startswith(message)


def test_a_log_that_was_cut_has_another_last_digest():
    assert LOG.chain != Log.replayed(LINES[:-1]).chain


def test_a_replayed_log_goes_on():
    log = Log.replayed(LINES[:50])

    assert LINES[50:] == [log.look(look) for look, _ in LOG.entries[49:]]


def test_the_canary_of_this_log_is_rolled_back():
    assert Action.ROLLBACK is LOG.entries[-1][1].action


def test_a_log_of_an_earlier_day_is_still_replayed():
    """
    Seventy-two looks at three weights, with every signal, cohorts, two gaps and answers without a track.
    """
    golden = Path(__file__).parent / "goldens" / "judge.log"

    with golden.open(encoding="utf-8") as stream:
        log = Log.replayed(stream)

    assert 72 == len(log.entries)
