"""
The load driver: what it sends, what it records, and that nothing it saw can be left out unseen.
"""

import ssl
import threading
import time

import grpc
import numpy as np
import pytest

from tfcanary.client.endpoint import Tls
from tfcanary.client.request import PredictRequest
from tfcanary.contract import REVISION_HEADER, SERVING_PREPROCESS, Api
from tfcanary.errors import DoesNotHoldError, NoEvidenceError, UsageError
from tfcanary.report.table import phases_table
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing
from tfcanary.traffic.calls import Population, metadata_call, prediction_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import CODES, Mark, Recorder, joined
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

MODEL = "resnet"
BOTH = [metadata_call(api, MODEL) for api in Api]


@pytest.fixture
def tenth(values) -> Routing:
    return from_values(values())


def test_every_request_leaves_a_record_over_both_apis(gateway, tenth):
    """
    So many of each API as were sent, each with who answered and under which routes.
    """
    double = gateway(tenth)

    with Traffic(double.address, BOTH, concurrency=4, most=200) as load:
        records = load.join()

    assert 200 == len(records) == sum(double.counts.values())
    assert {Api.REST: 100, Api.GRPC: 100} == {api: len(records.of(api=api)) for api in Api}
    assert {"200": 100, "OK": 100} == records.outcomes()
    assert {"rev-2": 200} == records.counts("revision")
    assert {"stable", "canary"} == set(records.counts("track"))
    records.assert_none_failed(at_least=200)


def test_predictions_are_recorded_by_their_answer(gateway, tenth):
    """
    One picture, one answer of each track and API: as many digests. Which API the canary's forty answers go to is chance.
    """
    double = gateway(tenth)
    requests = [
        prediction_call(api, MODEL, PredictRequest.one(SERVING_PREPROCESS, "image_bytes", b"picture"))
        for api in Api
    ]

    with Traffic(double.address, requests, concurrency=4, most=400) as load:
        records = load.join()

    records.assert_none_failed(at_least=400)
    for api in Api:
        for track in ("stable", "canary"):
            assert 1 == len(set(records.of(api=api, track=track).require(1).digest.tolist()))


def test_users_keep_their_region_and_group(gateway, user_group):
    """
    The users of the group `canary`, and they alone, are answered by the canary.
    """
    double = gateway(user_group)
    population = Population(users=30)

    with Traffic(double.address, BOTH, concurrency=4, most=120, population=population) as load:
        records = load.join()

    groups = np.array([population.headers(int(user))["user-group"] == "canary" for user in records.user])
    by_canary = records.track == records.names.index("canary")
    assert 30 == len(set(records.user.tolist()))
    assert groups.tolist() == by_canary.tolist()
    assert {"eu", "us", "asia"} == {population.headers(user)["x-region"] for user in range(3)}


def test_the_load_is_open(gateway, tenth):
    """
    Requests go out at their times although the gateway is slow, and each latency counts from then.
    """

    def stall(_api, count, *_):
        if count == 5:
            time.sleep(0.5)
        return 200

    double = gateway(tenth, status=stall)

    with Traffic(double.address, BOTH[:1], rate=100, most=60, connections=1) as load:
        records = load.join()

    assert 60 == len(records)
    assert pytest.approx(0.59) == records.due[-1]
    assert 0.5 <= records.latency[4]
    assert 0.3 <= records.latency[10], "it waited for the connection, and that counts"
    assert records.late[10] > records.late[:4].max()


def test_phases_hold_every_request(gateway, tenth):
    """
    Marks cut the records, and no request falls between two phases.
    """
    double = gateway(tenth)

    with Traffic(double.address, BOTH, rate=100) as load:
        load.wait_for(20)
        load.mark("middle")
        load.wait_for(20)
        load.mark("end")
        load.wait_for(20)
        records = load.stop()

    assert ["start", "middle", "end"] == [phase.about for phase in records.phases()]
    assert len(records) == sum(len(phase) for phase in records.phases())
    assert all(len(phase) for phase in records.phases())
    assert len(records) == len(records.around("middle", before=1e3, after=1e3))
    assert ["phase", "start", "middle", "end", "all"] == [
        line.split()[0] for line in str(phases_table(records)).splitlines()
    ]


def test_a_revision_is_waited_for_over_both_apis(gateway, tenth):
    """
    It has arrived when each API showed it so many times in a row; a stale API is named.
    """
    double = gateway(tenth)

    def attribute(api, _, headers):
        stale = api is Api.GRPC and not upgraded.is_set()
        return {**headers, REVISION_HEADER: "rev-1"} if stale else headers

    upgraded = threading.Event()
    double.attribute = attribute
    with Traffic(double.address, BOTH, rate=400) as load:
        load.wait_for(100)
        with pytest.raises(WaitTimeoutError, match=r"revision rev-2: .*gRPC rev-1 \d+ times"):
            load.wait_for_revision("rev-2", in_a_row=5, timeout_seconds=0.1)
        upgraded.set()
        load.wait_for_revision("rev-2", in_a_row=5, timeout_seconds=30)
        records = load.stop()

    assert 0 < records.of(api=Api.GRPC).counts("revision")["rev-1"]
    assert 0 == records.of(api=Api.REST).counts("revision")["rev-1"]


def test_an_empty_slice_proves_nothing(gateway, tenth):
    """
    No assertion about no requests passes, and a phase that never was is named.
    """
    with Traffic(gateway(tenth).address, BOTH[:1], concurrency=1, most=10) as load:
        records = load.join()

    with pytest.raises(NoEvidenceError, match=r"all requests, gRPC: expected at least 1 requests, got 0"):
        records.of(api=Api.GRPC).assert_none_failed()
    with pytest.raises(NoEvidenceError, match=r"by nobody: expected at least 1 requests, got 0"):
        records.of(track="nobody").assert_none_failed()
    with pytest.raises(NoEvidenceError, match=r"expected at least 11 requests, got 10"):
        records.assert_none_failed(at_least=11)
    with pytest.raises(UsageError, match=r"phase 'canary': expected one of start"):
        records.phase("canary")


@pytest.mark.parametrize("api", list(Api))
def test_one_failure_is_found_and_told(gateway, tenth, api):
    """
    One 503 of many: the message has outcomes, tracks, latency, and the request itself.
    """
    double = gateway(tenth, status=lambda its, count, *_: 503 if (its, count) == (api, 30) else 200)

    with Traffic(double.address, BOTH, concurrency=4, most=100) as load:
        records = load.join()

    said = {Api.REST: r"200 49, 503 1, OK 50", Api.GRPC: r"200 50, OK 49, UNAVAILABLE 1"}[api]
    with pytest.raises(
        DoesNotHoldError, match=rf"0 of 100 requests to fail, got 1; outcomes {said}.*first: at"
    ):
        records.assert_none_failed()
    assert 1 == records.failed.sum() == len(records.samples())
    assert 50 == len(records.of(api=api))


def test_a_gateway_that_is_not_there_fails_every_request():
    with Traffic("127.0.0.1:9", BOTH, concurrency=2, most=6) as load:
        records = load.join()

    assert 6 == records.failed.sum()
    assert {"no answer": 3, "UNAVAILABLE": 3} == records.outcomes()
    assert {"Connect call failed"} == {
        "Connect call failed" for error in records.counts("error") if "Connect call failed" in error
    }


def test_requests_that_wait_for_a_connection_fail_with_it():
    """
    No connection can be made: the requests that wait for one fail too.
    """
    load = Traffic("127.0.0.1:1", BOTH[:1], rate=2000, connections=1, most=20)
    load.__enter__()  # a with block would wait for the requests at its end

    def ended() -> None:
        if len(load.records()) < 20:
            raise NotYet(f"{len(load.records())} of 20")

    wait_until("all records", ended, timeout_seconds=5, interval_seconds=0.02)

    assert 20 == load.join().failed.sum()


def test_a_call_that_cannot_be_sent_has_its_record(gateway, tenth):
    """
    Metadata whose name ends in -bin is bytes; text is refused before anything is sent.
    """
    double = gateway(tenth)
    asked = [metadata_call(Api.GRPC, "resnet", {"x-bin": "text"})]

    with Traffic(double.address, asked, concurrency=1, most=2) as load:
        records = load.join()

    assert 2 == records.failed.sum()
    assert all("not sent: TypeError" in error for error in records.counts("error"))


def test_a_tls_gateway_that_is_none_fails_with_its_reason(gateway, tenth):
    """
    Plain HTTP where TLS is expected: every request says so, over both APIs.
    """
    double = gateway(tenth)

    with Traffic(double.address, BOTH, concurrency=2, most=4, tls=Tls(), deadline_seconds=3) as load:
        records = load.join()

    assert 4 == records.failed.sum()
    assert any("SSL" in error for error in records.counts("error"))


def test_a_ca_that_is_none_is_refused(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")

    with pytest.raises(UsageError, match=r"--ca '.*ca\.pem': expected a PEM file"):
        Tls(file).context()
    assert isinstance(Tls().context(), ssl.SSLContext)


def test_a_step_of_the_wall_clock_moves_nothing(gateway, tenth, monkeypatch):
    """
    The clock of the day goes back a day in the middle; times and latencies do not.
    """
    double = gateway(tenth)
    with Traffic(double.address, BOTH, rate=200) as load:
        load.wait_for(10)
        monkeypatch.setattr(time, "time", lambda: 0.0)
        load.wait_for(10)
        records = load.stop()

    assert np.all(np.diff(records.due) >= 0)
    assert np.all((records.latency >= 0) & (records.latency < 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "either rate or concurrency", id="neither"),
        pytest.param({"rate": 1, "concurrency": 1}, "either rate or concurrency", id="both"),
        pytest.param({"rate": 0}, "a load above 0", id="no-load"),
        pytest.param({"concurrency": 0}, "a load above 0", id="nobody"),
    ],
)
def test_a_load_that_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Traffic("127.0.0.1:1", BOTH, **options)


def test_a_million_records_take_little_memory():
    """
    10⁶ records, those being written and those handed out, in far less than 300 MB.
    """
    columns = Recorder()
    for i in range(100_000):
        columns.add(
            due=i / 1000,
            latency=0.01,
            request="predict REST",
            user=i % 1000,
            status=200,
            track="stable",
            revision="stable",
            digest=i,
        )

    made = columns.records([Mark(0.0, "start")])

    assert 100_000 == len(made)
    # What is written and what is handed out have the same columns.
    assert 2 * made.nbytes * 10 < 100e6


def recorded(*rows: tuple[float, str]) -> Recorder:
    recorder = Recorder()
    for due, track in rows:
        recorder.add(due=due, latency=0.1, request="metadata", status=200, track=track)
    return recorder


def test_around_takes_every_mark_of_its_name():
    """
    The requests near the first use of a name count as those near the last; the end is excluded.
    """
    records = recorded((0.0, "a"), (1.0, "b"), (5.0, "c"), (6.0, "d"), (9.0, "e")).records(
        [Mark(0.0, "x"), Mark(2.0, "y"), Mark(5.0, "x")]
    )

    near = records.around("x", before=0.5, after=1.0)

    assert {"a": 1, "c": 1} == near.counts("track")


@pytest.mark.parametrize(
    "look", [lambda records: records.phase("z"), lambda records: records.around("z", before=1, after=1)]
)
def test_a_phase_that_was_never_marked_is_an_error(look):
    records = recorded((0.0, "a")).records([Mark(0.0, "x"), Mark(2.0, "y")])

    with pytest.raises(UsageError, match="phase 'z': expected one of x, y"):
        look(records)


def test_records_of_several_recorders_keep_their_names_and_order():
    first = recorded((0.0, "stable"), (2.0, "canary")).records([Mark(0.0, "start")])
    second = recorded((1.0, "canary"), (3.0, "third")).records()

    both = joined([first, second])

    assert [0.0, 1.0, 2.0, 3.0] == list(both.due)
    assert ["stable", "canary", "canary", "third"] == [both.names[number] for number in both.track]
    assert {"metadata": 4} == both.counts("request")


def test_no_records_joined_are_none():
    assert 0 == len(joined([]))


def test_status_codes_have_the_names_that_grpc_gives_them():
    assert {code.value[0]: code.name for code in grpc.StatusCode} == dict(enumerate(CODES))
