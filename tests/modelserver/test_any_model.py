"""
The check of every kind of model in the zoo, by the real answers of a model server over REST and gRPC; and each planted fault.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo
from checking import QUICK, kinds, subject, with_agree
from double import start
from upstream import Upstream

from tfcanary.check.report import Report
from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Options
from tfcanary.client.given import Given, given_by
from tfcanary.client.made import made
from tfcanary.client.rest import RestClient
from tfcanary.client.tensors import protos, to_tensor
from tfcanary.contract import SERVING_DEFAULT
from tfcanary.export.warmup import FILE
from tfcanary.judge.verdict import Outcome
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values

AGREE = with_agree(0.9)
ROUTES = from_values(
    {
        "model": {"name": "resnet"},
        "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
        "routing": {
            "routes": [
                {
                    "name": "group",
                    "match": {"headers": {"user-group": {"exact": "canary"}}},
                    "weights": {"canary": 100},
                },
                {"name": "everyone", "weights": {"stable": 100}},
            ]
        },
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The whole zoo.
    """
    made_in = tmp_path_factory.mktemp("zoo")
    zoo.build(made_in)
    return made_in


@pytest.fixture(scope="module")
def zoo_server(share_server: Any, folder: Path) -> Any:
    """
    One server for the whole zoo.
    """
    entries = "".join(
        f'config: {{ name: "{name}", base_path: "{folder / name}", model_platform: "tensorflow" }}\n'
        for name in zoo.names()
    )
    config = folder / "models.config"
    config.write_text(f"model_config_list: {{ {entries} }}")
    last = zoo.names()[-1]
    flags = ["--prefer_tflite_model", "--num_tflite_pools=2"]
    return share_server(f"/v1/models/{last}/metadata", f"--model_config_file={config}", *flags)


@pytest.fixture
def check(zoo_server: Any) -> Iterator[Callable[..., Report]]:
    """
    Check a gateway with these two models behind it.
    """
    with contextlib.ExitStack() as stack:

        def run(stable: str, canary: str, options: Options = QUICK, given: Given | None = None) -> Report:
            served = {"stable": stable, "canary": canary}
            gateway = Upstream(ROUTES, rest=zoo_server.rest, channel=zoo_server.channel, served=served)
            return check_gateway(subject(start(stack, gateway), ROUTES), options, given=given)

        yield run


def requests_of(kind: str, folder: Path) -> Given:
    """
    The requests of a kind, through a file.
    """
    file = folder / "requests.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in zoo.MODELS[kind].requests))
    return given_by(file, None)


@pytest.mark.parametrize("kind", [kind for kind, one in zoo.MODELS.items() if one.takes_made])
def test_a_model_of_any_kind_holds_with_made_inputs(check: Callable[..., Report], kind: str) -> None:
    report = check(kind, f"{kind}-{zoo.NEXT}", AGREE)

    assert report.held, str(findings_table(report))
    assert (zoo.MODELS[kind].profile, "inputs made from the signature") == (report.profile, report.source)


@pytest.mark.parametrize("kind", zoo.MODELS)
def test_a_model_of_any_kind_holds_with_requests(
    check: Callable[..., Report], tmp_path: Path, kind: str
) -> None:
    """
    Rows and columns, text and base64: what REST is sent, gRPC gets as tensors, and both answer the same.
    """
    report = check(kind, f"{kind}-{zoo.NEXT}", AGREE, requests_of(kind, tmp_path))

    assert report.held, str(findings_table(report))
    right = [one.observed for one in report.findings if one.name == "labels given"]
    assert right in ([], ["stable 4 of 4, canary 4 of 4"])
    assert bool(right) == any("label" in line for line in zoo.MODELS[kind].requests)


# What each fault is found by; REST names no types, and all but the interface see one track's answers alone.
FOUND = {
    "nan": {("answers", "REST"), ("answers", "gRPC")},
    "dtype": {("interface", None)},
    "shape": {("interface", None)},
    "swapped": {("agreement", None)},
}


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, one in zoo.MODELS.items() for fault in one.faults]
)
def test_a_fault_of_a_model_of_any_kind_is_found(
    check: Callable[..., Report], tmp_path: Path, kind: str, fault: str
) -> None:
    # The requests of others are in the test above.
    given = None if zoo.MODELS[kind].takes_made else requests_of(kind, tmp_path)

    report = check(kind, f"{kind}-{fault}", AGREE, given)

    # What takes the place of probabilities is none.
    none = (kind, fault) == ("tabular", "swapped")
    assert kinds(report) >= FOUND["nan" if none else fault], str(findings_table(report))
    assert 1 == report.exit_code
    if fault == "swapped" and not none:
        (row,) = (one for one in report.findings if one.name == "agreement")
        assert "look swapped" in row.observed


@pytest.mark.parametrize("kind", zoo.MODELS)
def test_a_wrong_version_of_any_kind_is_found(
    check: Callable[..., Report], tmp_path: Path, kind: str
) -> None:
    """
    The canary's pods serve version 1, which answers as version 2 would.
    """
    report = check(kind, kind, AGREE, requests_of(kind, tmp_path))

    assert {("version", "REST"), ("version", "gRPC")} == kinds(report), str(findings_table(report))


def test_an_interface_that_differs_is_named_by_its_output(check: Callable[..., Report]) -> None:
    report = check("scalar", "scalar-dtype")

    (row,) = (one for one in report.findings if one.name == "interface")
    assert "serving_default outputs double: DT_FLOAT[] and DT_DOUBLE[]" in row.observed


def test_warm_up_records_are_what_is_asked(
    check: Callable[..., Report], zoo_server: Any, folder: Path, tmp_path: Path
) -> None:
    """
    Those that TensorFlow's own writer wrote.
    """
    tf = pytest.importorskip("tensorflow")
    with RestClient(f"127.0.0.1:{zoo_server.rest_port}", "multi-input") as client:
        interface = client.metadata(parse=True).interface
    log = protos().prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "multi-input"
    for name, value in made(SERVING_DEFAULT, interface[SERVING_DEFAULT]).inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value.values, value.dtype))
    (tmp_path / "saved_model.pb").write_bytes((folder / "multi-input" / "1" / "saved_model.pb").read_bytes())
    (tmp_path / FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / FILE)) as writer:
        writer.write(log.SerializeToString())

    report = check("multi-input", "multi-input-next", QUICK, given_by(None, tmp_path))

    assert report.held, str(findings_table(report))
    assert f"1 warm-up record of {tmp_path}" == report.source


def test_signatures_for_examples_are_not_asked_without_requests(check: Callable[..., Report]) -> None:
    report = check("half-plus-two", "half-plus-two-next")

    assert Outcome.HELD in {one.outcome for one in report.findings}
    assert [True, True] == ["takes serialised tf.Examples" in lost for lost in report.lost]


def test_a_model_that_takes_no_made_input_asks_for_requests(check: Callable[..., Report]) -> None:
    """
    Where rows begin and end is nothing that a type and a shape say.
    """
    report = check("ragged-parts", "ragged-parts-next")

    assert 4 == report.exit_code
    assert set() == kinds(report)
    rows = [one for one in report.findings if one.name == "answers"]
    assert [True, True] == ["--requests FILE" in one.detail for one in rows]
