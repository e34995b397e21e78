"""
The requests that a rollout judges, as they come from records and from scrapes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import pytest

from tfcanary.errors import NoEvidenceError
from tfcanary.judge.counts import Counts
from tfcanary.judge.feed import CANARY, STABLE, Feed
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.metrics.gateway import Counted as Whose
from tfcanary.metrics.prometheus import Prometheus
from tfcanary.rollout.requests import Moment, OwnRequests, Pace, UsersRequests
from tfcanary.traffic.records import Recorder, Records

START = 1_800_000_000.0


class Sent:
    """
    A load that has sent what a test says.

    Attributes:
        until: seconds from the start up to which every request has ended.
    """

    began = START

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.until = 0.0
        self.open = False

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def add(self, due: float, track: str, *, status: int = 200, revision: str = "now") -> None:
        """
        A request over REST, answered within a tenth of a second.
        """
        self.recorder.add(
            due=due,
            latency=0.1,
            request="predict",
            status=status,
            track=track,
            revision=revision,
            error="" if status == 200 else str(status),
        )

    def ended_since(self, first: int) -> tuple[Records, float]:
        """
        As the driver has it.
        """
        return self.recorder.records(first=first), self.until


def own(sent: Any) -> OwnRequests:
    return OwnRequests(sent, Feed(Plan(), slow=1.0), slow=1.0, tracks={"v2": CANARY, "v1": STABLE})


def moment(
    seconds: float, *, after: float | None = None, weights: Mapping[str, float] | None = None
) -> Moment:
    return Moment(10.0, START, after, START + seconds, weights or {"now": 10.0})


def total(looks: Sequence[Look]) -> Counts:
    found = Counts()
    for look in looks:
        found = found.plus(look.errors)
    return found


def test_each_request_counts_once_and_in_the_order_in_which_it_was_due() -> None:
    """
    A canary that answers late is not behind: what was due after a request that has not ended waits for it.
    """
    sent = Sent()
    requests = own(sent)
    sent.add(0.1, "v1")
    sent.add(0.3, "v1", status=500)
    sent.until = 0.2

    first = requests.counted(moment(0.5))
    sent.add(0.2, "v2", status=503)
    sent.until = 0.4
    second = requests.counted(moment(1.0))
    third = requests.counted(moment(1.5))

    assert Counts(stable_good=1) == total(first.looks)
    assert Counts(canary_bad=1, stable_bad=1) == total(second.looks)
    assert () == third.looks


def test_a_request_that_never_ends_holds_the_others_up_for_seconds_only() -> None:
    sent = Sent()
    requests = own(sent)
    sent.add(1.0, "v1")
    sent.until = 0.5

    assert () == requests.counted(moment(5.9)).looks
    assert Counts(stable_good=1) == total(requests.counted(moment(6.1)).looks)


def test_what_ended_after_its_turn_is_judged_under_a_time_that_has_not_passed() -> None:
    """
    The judge would call it stale.
    """
    sent = Sent()
    requests = own(sent)
    sent.add(1.0, "v2", status=503)
    sent.until = 9.0

    (look,) = requests.counted(moment(9.0, after=START + 8.0)).looks

    assert START + 8.0 == look.at
    assert Counts(canary_bad=1) == look.errors


def test_the_weight_of_a_request_is_that_of_the_routes_which_its_answer_names() -> None:
    """
    Routes that nobody knows are another's. An answer that names none counts, as one without a track.
    """
    sent = Sent()
    requests = own(sent)
    sent.add(0.1, "v1", revision="before")
    sent.add(0.2, "v2", revision="now")
    sent.add(0.3, "v1", revision="somebody's")
    sent.add(0.4, "", status=503, revision="")
    sent.until = 1.0

    looks = requests.counted(moment(1.0, weights={"before": 5.0, "now": 10.0})).looks

    assert {5.0: (0, 1), 10.0: (1, 0)} == {look.weight: look.answers for look in looks}
    assert 1 == sum(look.unnamed for look in looks)


def test_the_rate_is_that_of_all_requests_and_the_load_ends_with_them() -> None:
    sent = Sent()
    requests = own(sent)
    for number in range(40):
        sent.add(number / 20, "v1")
    sent.until = 2.0

    assert 20 == pytest.approx(requests.counted(moment(2.0)).per_second)
    assert sent.open
    requests.close()
    assert not sent.open


class Scraped:
    """
    Looks that a gateway's statistics give in turn; none are there where nothing was scraped.
    """

    def __init__(self, *looks: Look | None) -> None:
        self.looks = list(looks)

    def ask(self, *_: object, **__: object) -> Look | None:
        """
        As `Scrapes` has it.
        """
        if not self.looks:
            raise NoEvidenceError("no series")
        return self.looks.pop(0)


def users(*kinds: Scraped) -> UsersRequests:
    found = UsersRequests(Prometheus("http://127.0.0.1:9"), Whose("resnet", "models"))
    found._kinds = list(kinds)  # type: ignore[arg-type]
    return found


def test_whichever_statistics_the_gateway_has_are_read() -> None:
    """
    Istio's own come first; a gateway without them has Envoy's.
    """
    look = Look(at=START + 1, weight=10.0, errors=Counts(0, 1, 0, 9))

    assert (look,) == users(Scraped(look), Scraped()).counted(moment(1.0)).looks
    assert (look,) == users(Scraped(), Scraped(look)).counted(moment(1.0)).looks
    with pytest.raises(NoEvidenceError):
        users(Scraped(), Scraped()).counted(moment(1.0))


def test_the_users_rate_is_measured_from_scrape_to_scrape() -> None:
    """
    A look with a problem is handed on, and measures nothing.
    """
    first, second = (Look(at=START + at, weight=10.0, errors=Counts(0, 10, 0, 90)) for at in (5, 10))
    broken = Look(at=START + 12, weight=10.0, problem="reset")
    # It counts one second after the gateways had the weight, which took nine.
    other = Look(at=START + 20, weight=25.0, errors=Counts(0, 5, 0, 15))
    requests = users(Scraped(first, second, broken, None, other))

    rates = [requests.counted(moment(at)).per_second for at in (5.0, 10.0, 12.0, 13.0, 20.0)]

    assert [0.0, 20.0, 20.0, 20.0, 20.0] == rates


def test_the_connections_to_a_prometheus_are_closed() -> None:
    requests = users(Scraped(None))

    requests.close()

    assert requests._prometheus._client.is_closed


@pytest.mark.parametrize(("per_second", "expected"), [(0.0, 0), (0.5, 5), (4.0, 40)])
def test_pairs_are_sent_at_the_plans_pace(per_second: float, expected: int) -> None:
    """
    Whatever the time between two looks is; less than one a second adds up to some.
    """
    pace = Pace(per_second, most=20)

    assert expected == sum(pace.due(START + look) for look in range(11))


def test_pairs_that_were_not_sent_are_not_made_up_for() -> None:
    pace = Pace(4.0, most=20)
    pace.due(START)

    assert [20, 0, 4] == [pace.due(START + seconds) for seconds in (3600.0, 3600.1, 3601.0)]
