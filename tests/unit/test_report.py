"""
Reports for a reader and for a CI: complete, safe whatever a gateway says, and the same verdict as the table.
"""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from zero_drop_page import zero_drop

from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Options, Subject
from tfcanary.commands import check
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome
from tfcanary.report.html import html
from tfcanary.report.junit import junit
from tfcanary.routing.parse import from_values

QUICK = Options(alpha=1e-4, power=0.99, detect=40, timeout_seconds=0.5)
EVIL = '<script src="https://example.com/x.js">alert(1)</script>\x00'


def parsed(text):
    return ET.fromstring(text)  # noqa: S314 - our own


class Page(HTMLParser):
    """
    Collects tags and attributes; complains about what is left open.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """
        Count it, and keep it open.
        """
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """
        Count it.
        """
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        """
        It is the last that was opened.
        """
        assert tag == self.open.pop()

    def handle_data(self, data):
        """
        Keep the text.
        """
        self.text += data


@pytest.fixture
def made(gateway, values):
    """
    Check a double that does this wrong.
    """

    def make(**faults):
        expected = from_values(values())
        double = gateway(expected, **faults)
        subject = Subject(routing=expected, gateway=double.address, revision="rev-2", lost=("the weather",))
        return check_gateway(subject, QUICK)

    return make


def test_the_page_shows_everything_and_loads_nothing(made):
    """
    Routes in words, every check, split, latency of each track and API; no script, no link, no address to load from.
    """
    found = made()

    page = Page(html(found))

    assert [] == page.open
    assert set() == {"script", "link", "img", "iframe", "object", "a", "form"} & set(page.tags)
    assert set() == {"src", "href", "onload", "xlink:href"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?:", html(found))
    for text in (
        found.verdict,
        "everyone: everyone else → stable 90 %, canary 10 %",
        "canary over REST",
        "canary over gRPC",
        "stable over gRPC",
        "None of the requests failed",
        "the weather",
        *(one.observed for one in found.findings),
    ):
        assert text in page.text
    assert len(found.findings) == page.tags.count("tr") - 1
    assert 2 == page.tags.count("figure")


def test_a_failure_is_on_the_page_and_first(made):
    found = made(status=lambda api, count, *_: 503 if (api, count) == (Api.REST, 40) else 200)

    page = Page(html(found))

    assert "1 requests failed" in page.text
    assert "503" in page.text
    results = re.findall(r'data-name="result">([^<]*)', html(found))
    assert "failed" == results[0]
    assert results.count("held") == len(results) - 1


def test_what_a_gateway_says_is_text(made):
    """
    A track and an error that are mark-up are shown, not run; and XML takes no control characters.
    """
    found = made(
        attribute=lambda _api, count, headers: (
            {**headers, "x-model-track": EVIL.rstrip("\x00")} if count == 30 else headers
        )
    )

    page = Page(html(found))

    assert "script" not in page.tags
    assert "alert(1)" in page.text
    assert parsed(junit(found)).iter("failure")


def test_junit_tells_failures_from_missing_evidence(made):
    """
    As many cases as checks; a failure where it did not hold, an error where evidence lacks.
    """
    found = made(status=lambda *seen: 503 if seen[2:] == ("predict", "canary") else 200)

    (suite,) = parsed(junit(found))

    cases = suite.findall("testcase")
    assert len(found.findings) == len(cases) == int(suite.get("tests"))
    assert 2 == int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    lacking = [one for one in found.findings if one.outcome is Outcome.NOT_ENOUGH]
    assert 0 < len(lacking) == int(suite.get("errors")) == len(suite.findall("testcase/error"))
    assert [one.title for one in found.findings] == [case.get("name") for case in cases]


def test_junit_says_that_it_was_interrupted(made):
    found = dataclasses.replace(made(), interrupted="gone\x01")

    (suite,) = parsed(junit(found))

    assert "1" == suite.get("errors")
    assert ["interrupted: gone�"] == [one.get("message") for one in suite.findall("testcase/error")]


def arguments(double, strategy):
    return ["--gateway", double.address, "--values", str(strategy), "--alpha", "1e-3", "--power", "0.9"]


def test_the_command_writes_both_also_when_it_fails(gateway, values, tmp_path, capsys):
    actual = from_values(values())
    double = gateway(actual, revision="rev-1", status=lambda *seen: 404 if seen[1] > 30 else 200)
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text(json.dumps({"model": {"name": "resnet"}, "routing": values()["routing"]}))
    files = [tmp_path / "reports" / name for name in ("junit.xml", "report.html")]

    code = check.main(
        [*arguments(double, strategy), f"--junit={files[0]}", f"--report={files[1]}", "--timeout", "0.5"]
    )

    assert 1 == code
    assert capsys.readouterr().out
    assert parsed(files[0].read_text()).findall("testsuite/testcase/failure")
    assert "did not hold" in Page(files[1].read_text()).text


def test_a_report_that_cannot_be_written_is_wrong_use(gateway, values, tmp_path, capsys):
    double = gateway(from_values(values()))
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text(json.dumps({"model": {"name": "resnet"}, "routing": values()["routing"]}))

    code = check.main([*arguments(double, strategy), f"--report={tmp_path}"])

    assert 2 == code
    said = capsys.readouterr()
    assert "cannot be written" in said.err
    assert "checks held" in said.out


def test_zero_drop_runs_make_a_page():
    """
    The figures of each run and phase, and the sum of what failed.
    """
    figures = {
        "requests": 100,
        "failed": 2,
        "perSecond": 50.0,
        "latencyMs": {"p50": 1.0, "p99": 9.5},
        "tracks": {"stable": 100},
        "samples": ["at 1 s <b>503</b>"],
    }
    run = {
        "name": "the_gateway_restarts",
        "all": figures,
        "phases": [{"about": "restart", **figures}],
        "changeSeconds": [3.25, 3.75],
        "propagationSeconds": [0.25, 0.5],
        "lastFailureAfterSeconds": 1.5,
    }

    page = Page(zero_drop([run, {**run, "propagationSeconds": []}]))

    assert "4 of 200 requests failed" in page.text
    assert "the gateway restarts" in page.text
    assert "lastFailureAfterSeconds: 1.5" in page.text
    assert "at 1 s <b>503</b>" in page.text
    assert "3.75" in page.text
    assert "0.50" in page.text
