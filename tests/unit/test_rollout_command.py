"""
The command of rollouts, where it needs no cluster; who is told of an end; and what a plan would take.
"""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfcanary.commands.main import main
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.paths import ROOT
from tfcanary.rollout import notify
from tfcanary.rollout.outlook import simulated
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.planfile import plan_from, read_plan

RECORD: dict[str, Any] = {
    "release": "resnet",
    "from": 1,
    "to": 2,
    "end": "rolled back",
    "reason": "errors worse than stable",
    "run": "resnet-2-7",
    "startedBy": "ann",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["start"], "plan: expected a PLAN file or --to VERSION, got neither", id="neither"),
        pytest.param(["start", "plan.yaml", "--to=2"], "got both", id="both"),
        pytest.param(["start", "nowhere.yaml"], "cannot be read", id="no-file"),
        pytest.param(["start", "--to=0"], "to: expected", id="no-version"),
        pytest.param(["start", "--to=2", "--ca=x"], "--ca: expected --tls with it", id="ca"),
        pytest.param(["explain", "--to=2", "--runs=1"], "expected a number from 2 to 1000", id="runs"),
        pytest.param(["explain", "--to=2", "--base=100"], "expected a number from 0 to 50", id="base"),
        pytest.param(["dance"], "invalid choice: 'dance'", id="no-part"),
        pytest.param(["status", "--kubeconfig=nowhere"], "kubeconfig 'nowhere'", id="no-cluster"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["rollout", *arguments])
    except SystemExit as left:
        code = int(str(left.code))

    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert code in (2, 3)


def test_the_plan_of_the_page_is_one(tmp_path: Path) -> None:
    """
    docs/how-to/roll-out.md shows it.
    """
    page = (ROOT / "docs/how-to/roll-out.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found
    (tmp_path / "plan.yaml").write_text(found[1], encoding="utf-8")

    plan = read_plan(tmp_path / "plan.yaml")

    assert ["errors", "slow", "disagreement"] == list(plan.judge.signals)
    assert plan.promotion
    assert plan.windows


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any], list[int]]]:
    """
    The URL of a webhook, what it was told, and the status it answers with.
    """
    told: list[Any] = []
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/services/SECRET", told, status
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_is_told_in_one_line(
    webhook: tuple[str, list[Any], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told, _ = webhook
    monkeypatch.setenv("HOOK", url)

    notify.told("HOOK", RECORD)

    assert [{"text": notify.line(RECORD)}] == told
    assert "version 1 to 2: rolled back. errors worse than stable" in told[0]["text"]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        pytest.param("", UsageError, id="none"),
        pytest.param("http://hooks.example/SECRET", UsageError, id="plain-http"),
        pytest.param("http://127.0.0.1:9/SECRET", UnreachableError, id="nobody"),
    ],
)
def test_a_webhook_that_cannot_be_told_is_named_without_its_url(
    url: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The URL is a secret.
    """
    monkeypatch.setenv("HOOK", url)

    with pytest.raises(error, match="HOOK") as caught:
        notify.told("HOOK", RECORD)

    assert "SECRET" not in str(caught.value)


def test_a_webhook_that_refuses_is_asked_again(
    webhook: tuple[str, list[Any], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The driver takes it for an outage.
    """
    url, _, status = webhook
    monkeypatch.setenv("HOOK", url)
    status[0] = 503

    with pytest.raises(UnreachableError, match="503"):
        notify.told("HOOK", RECORD)


def plan(**given: Any) -> Plan:
    return plan_from(
        {
            "release": "resnet",
            "to": 2,
            "limits": {"least": "2s", "drain": "5s"},
            "bake": {"time": "10s"},
            "judge": {"errors": {"points": 5}},
            **given,
        }
    )


def test_an_outlook_is_the_same_for_the_same_plan() -> None:
    """
    It has every weight of the ladder in order, and more requests end sooner.
    """
    once, again = (simulated(plan(), per_second=40, base=0.001, pods=5, runs=3) for _ in range(2))
    more = simulated(plan(), per_second=400, base=0.001, pods=5, runs=3)

    assert once == again
    assert [5, 25, 50, 90, 100] == [one.weight for one in once.stays]
    assert all(one.first <= one.median <= one.last for one in once.stays)
    assert sorted(one.median for one in once.stays) == [one.median for one in once.stays]
    assert max(more.ends) <= min(once.ends)
    assert 0.5 == once.within


def test_an_outlook_waits_for_what_the_plan_waits_for() -> None:
    """
    The bake and the pods take their time, whatever the evidence is.
    """
    quick = simulated(plan(), per_second=40, base=0.001, pods=5, runs=2)
    longer = simulated(plan(bake={"time": "60s"}), per_second=40, base=0.001, pods=25, runs=2)

    # Three revisions change pods.
    assert min(longer.ends) - max(quick.ends) >= 50 + 3 * 20 - 15


def test_a_bad_rate_of_both_tracks_rolls_nothing_back_often() -> None:
    found = simulated(plan(), per_second=40, base=0.05, pods=5, runs=10)

    assert found.back <= 1
    assert found.ends


def test_explain_says_it_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["rollout", "explain", "--to=2", "--per-second=400", "--runs=2"])
    shown = capsys.readouterr().out
    assert 0 == main(["rollout", "explain", "--to=2", "--per-second=400", "--runs=2", "--json"])
    made = json.loads(capsys.readouterr().out)

    assert "promoted" in shown
    assert "tfserving-canary/rollout-explain/1" == made["schema"]
    assert made["seconds"]["least"] <= made["seconds"]["median"] <= made["seconds"]["most"]
