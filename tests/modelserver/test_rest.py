import base64
import gzip
import http.client
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Post = Callable[..., httpx.Response]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_row_form_of_one_input_needs_no_name(post: Post) -> None:
    assert post("half", instances=[1.0, 2, 5.0]).json() == {"predictions": [3.5, 4.0, 5.5]}


def test_row_form_may_name_the_input(post: Post) -> None:
    assert post("half", instances=[{"x": 1.0}, {"x": 2.0}]).json() == {"predictions": [3.5, 4.0]}


def test_row_form_of_several_inputs_and_outputs(post: Post) -> None:
    answer = post("mixed", instances=[{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}])

    assert answer.json() == {"predictions": [{"sum": 6.0, "twice": 6}, {"sum": 15.0, "twice": 12}]}


def test_column_form_of_one_input_needs_no_name(post: Post) -> None:
    assert post("half", inputs=[1.0, 2.0]).json() == {"outputs": [3.5, 4.0]}


def test_column_form_of_several_inputs_and_outputs(post: Post) -> None:
    answer = post("mixed", inputs={"a": [[1, 2], [4, 5]], "b": [3, 6]})

    assert answer.json() == {"outputs": {"sum": [6.0, 15.0], "twice": [6, 12]}}


def test_strings_come_as_text_or_base64_and_go_as_the_outputs_name_says(post: Post) -> None:
    """An output whose name ends in _bytes is base64, any other string output is a JSON string."""
    answer = post("mixed", signature_name="strings", instances=["ab", b64("ü\x00".encode())])

    assert answer.json()["predictions"] == [
        {"length": 2, "upper": "AB", "same_bytes": b64(b"ab")},
        {"length": 3, "upper": "ü\x00", "same_bytes": b64("ü\x00".encode())},
    ]


def test_text_that_is_no_utf8_goes_out_as_it_is(post: Post) -> None:
    """As in the original. A model for binary output names it with _bytes."""
    answer = post("mixed", signature_name="strings", instances=[b64(b"\xffa")])

    assert b'"upper": "\xffA"' in answer.content


def test_one_base64_value_in_column_form_is_a_scalar(post: Post) -> None:
    answer = post("mixed", signature_name="strings", inputs=[b64(b"x")])

    assert answer.json()["outputs"]["same_bytes"] == [b64(b"x")]


def test_a_text_without_dimensions_is_read_and_written(post: Post) -> None:
    answer = post("mixed", signature_name="one_text", inputs=b64("ü\x00".encode()))

    assert answer.json() == {"outputs": "ü\x00"}


def test_not_finite_outputs_are_written_as_bare_words(post: Post) -> None:
    answer = post("mixed", signature_name="not_finite", instances=[1.0])

    assert answer.status_code == 200
    assert "[1.0, Infinity, -Infinity, NaN]" in answer.text
    values = answer.json()["predictions"][0]
    assert values[:3] == [1.0, math.inf, -math.inf]
    assert math.isnan(values[3])


def test_not_finite_inputs_are_read(server: Any) -> None:
    answer = server.rest.post("/v1/models/half:predict", content=b'{"instances": [NaN, -Infinity]}')

    assert "[NaN, -Infinity" in answer.text


def test_an_answer_names_no_version_but_the_path_can(post: Post) -> None:
    by_version = [post(f"half/versions/{version}", instances=[0.0]).json() for version in (1, 2)]

    assert by_version == [{"predictions": [2.0]}, {"predictions": [3.0]}]


def test_a_label_stands_for_a_version(post: Post) -> None:
    assert post("half/labels/old", instances=[0.0]).json() == {"predictions": [2.0]}


def test_without_a_version_the_latest_answers(post: Post) -> None:
    assert post("half", instances=[0.0]).json() == {"predictions": [3.0]}


def test_an_output_of_another_type_is_refused(post: Post) -> None:
    answer = post("mixed", signature_name="halves", instances=[1.0])

    error = {"error": "Failed to write JSON value for tensor type: half"}
    assert (400, error) == (answer.status_code, answer.json())


def test_an_input_of_another_type_is_not_implemented(post: Post) -> None:
    """In columns; in rows, FillTensorMapFromInstancesList() makes every error an INVALID_ARGUMENT."""
    rows = post("mixed", signature_name="complexes", instances=[{"c64": 1, "c128": 1}])
    columns = post("mixed", signature_name="complexes", inputs={"c64": [1], "c128": [1]})

    said = "Conversion of JSON Value: 1 to type: complex"
    assert 501 == columns.status_code
    assert columns.json()["error"].startswith(said)  # a map of inputs has no order, and either may come first
    error = f"Failed to process element: 0 key: c64 of 'instances' list. Error: UNIMPLEMENTED: {said}64"
    assert (400, {"error": error}) == (rows.status_code, rows.json())


def test_every_type_is_read_and_written(post: Post) -> None:
    values: dict[str, Any] = {
        "float32": [0.1],
        "float64": [0.1],
        "int8": [-128],
        "int16": [-32768],
        "int32": [-(2**31)],
        "int64": [-(2**63)],
        "uint8": [255],
        "uint32": [2**32 - 1],
        "uint64": [2**64 - 1],
        "bool": [True],
    }

    answer = post("mixed", signature_name="json_kinds", inputs=values)

    assert answer.json() == {"outputs": {f"{name}_out": value for name, value in values.items()}}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param(
            "nope", {"instances": [1.0]}, 404, "Servable not found for request: Latest(nope)", id="model"
        ),
        pytest.param(
            "half/versions/9",
            {"instances": [1.0]},
            404,
            "Servable not found for request: Specific(half, 9)",
            id="version",
        ),
        pytest.param(
            "half/versions/99999999999999999999",
            {"instances": [1.0]},
            400,
            "Failed to convert version: 99999999999999999999 to numeric.",
            id="version-too-large",
        ),
        pytest.param(
            "half",
            {"signature_name": "nope", "instances": [1.0]},
            400,
            'Serving signature name: "nope" not found in signature def',
            id="signature",
        ),
        pytest.param("half", {}, 400, "Missing 'inputs' or 'instances' key", id="no-values"),
        pytest.param("half", {"instances": []}, 400, "No values in 'instances' array", id="empty"),
        pytest.param("half", {"instances": 1}, 400, "to be an list/array", id="no-list"),
        pytest.param("half", {"instances": [1.0], "inputs": [1.0]}, 400, "expecting only one of", id="both"),
        pytest.param(
            "half", {"signature_name": 1, "instances": [1.0]}, 400, "must be a string", id="name-type"
        ),
        pytest.param(
            "half", {"instances": ["a"]}, 400, "Type: String is not of expected type: float", id="string"
        ),
        pytest.param("half", {"instances": [True]}, 400, "is not of expected type: float", id="bool"),
        pytest.param("half", {"instances": [None]}, 400, "Type: Null is not of expected", id="null"),
        pytest.param("half", {"inputs": [1.0, [2.0]]}, 400, "unexpected level: 1 expected < 1", id="deeper"),
        pytest.param("half", {"inputs": [[1.0], 2.0]}, 400, "incorrect level: 2", id="shallower"),
        pytest.param("half", {"inputs": [[1.0], [1.0, 2.0]]}, 400, "unexpected size: 2", id="ragged"),
        pytest.param("half", {"instances": [10**400]}, 400, "Number too big to be stored", id="huge"),
        pytest.param("half", {"instances": [{"z": 1.0}]}, 400, "does not have named input: z", id="input"),
        pytest.param(
            "half", {"instances": [{"x": 1.0}, 2.0]}, 400, "Expecting object but got list at item 1", id="mix"
        ),
        pytest.param("half", {"instances": [1.0, {"x": 1.0}]}, 400, "got object at item 1", id="mix-back"),
        pytest.param(
            "half", {"instances": [{"b64": "AA=="}]}, 400, "is not of expected type: float", id="b64-number"
        ),
        pytest.param(
            "mixed", {"instances": [{"a": [1, 2]}]}, 400, "keys must be equal to: a,b", id="missing"
        ),
        pytest.param("mixed", {"instances": [1]}, 400, "expecting list of objects", id="unnamed"),
        pytest.param(
            "mixed", {"inputs": {"a": [[1, 2]]}}, 400, "Missing named input: b", id="column-missing"
        ),
        pytest.param("mixed", {"inputs": [1]}, 400, "expecting an object as multiple", id="column-unnamed"),
        pytest.param(
            "mixed", {"inputs": {"a": [[1, 2]], "b": [1.5]}}, 400, "is not of expected type: int64", id="int"
        ),
        pytest.param(
            "mixed",
            {"inputs": {"a": [[1, 2], [3, 4]], "b": [1, 2, 3]}},
            400,
            "Incompatible shapes",
            id="shape",
        ),
        pytest.param(
            "mixed",
            {"signature_name": "strings", "instances": [{"b64": "*"}]},
            400,
            "Unable to base64",
            id="b64",
        ),
        pytest.param(
            "mixed",
            {"signature_name": "total", "instances": [1.0]},
            400,
            "Tensor name: total has no shape information",
            id="output-without-batch",
        ),
        pytest.param(
            "mixed",
            {"signature_name": "kinds", "inputs": {}},
            400,
            "Missing named input",
            id="no-inputs",
        ),
    ],
)
def test_a_wrong_request_gets_a_status_and_a_reason(
    post: Post, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = post(path, **body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        pytest.param("POST", "/v1/models/half:predict", b"", 400, id="no-body"),
        pytest.param("POST", "/v1/models/half:predict", b"{", 400, id="no-json"),
        pytest.param("POST", "/v1/models/half:predict", b"[]", 400, id="no-object"),
        pytest.param("POST", "/v1/models/half:predict", b"\xff\xfe{", 400, id="no-text"),
        pytest.param(
            "POST", "/v1/models/half:predict", '{"instances":[1]}'.encode("utf-16"), 400, id="utf-16"
        ),
        pytest.param("POST", "/v1/models/half:predict", b"[" * 200_000, 400, id="deep"),
        pytest.param(
            "POST", "/v1/models/half:predict", b'{"instances":[' + b"9" * 5000 + b"]}", 400, id="digits"
        ),
        pytest.param("POST", "/v1/models/half", b"{}", 400, id="no-method"),
        pytest.param("POST", "/v1/models/half:nope", b"{}", 400, id="unknown-method"),
        pytest.param("GET", "/v1/models/half:predict", None, 400, id="get-predict"),
        pytest.param("GET", "/v1/models/half/versions/x", None, 400, id="version-no-number"),
        pytest.param("GET", "/v1/models/nope", None, 404, id="unknown-model"),
        pytest.param("GET", "/v1/models/half/versions/9", None, 404, id="unknown-version"),
        pytest.param("GET", "/v1/models/half/versions/9/metadata", None, 404, id="unknown-version-metadata"),
        pytest.param("GET", "/v1/models/half/labels/nope/metadata", None, 400, id="unknown-label"),
        pytest.param("DELETE", "/v1/models/half", None, 400, id="delete"),
        pytest.param("GET", "/", None, 404, id="elsewhere"),
    ],
)
def test_a_wrong_path_or_body_gets_its_status(
    server: Any, method: str, path: str, content: bytes | None, status: int
) -> None:
    assert server.rest.request(method, path, content=content).status_code == status


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/versions/1/metadata"])
def test_a_status_of_no_model_is_refused(server: Any, path: str) -> None:
    answer = server.rest.get(path)

    assert (400, {"error": "Missing model name in request."}) == (answer.status_code, answer.json())


def test_status_lists_every_version_newest_first(server: Any) -> None:
    answer = server.rest.get("/v1/models/half").json()

    ok = {"error_code": "OK", "error_message": ""}
    assert answer == {
        "model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": ok},
            {"version": "1", "state": "AVAILABLE", "status": ok},
        ]
    }


def test_status_of_one_version(server: Any) -> None:
    answer = server.rest.get("/v1/models/half/versions/1").json()

    assert [entry["version"] for entry in answer["model_version_status"]] == ["1"]


@pytest.mark.parametrize("label", ["old", "nope"])
def test_a_label_counts_for_nothing_in_a_status(server: Any, label: str) -> None:
    """GetModelStatusWithModelSpec() of get_model_status_impl.cc reads a number only."""
    status = server.rest.get(f"/v1/models/half/labels/{label}").json()

    assert [entry["version"] for entry in status["model_version_status"]] == ["2", "1"]


def test_metadata_of_a_label(server: Any) -> None:
    metadata = server.rest.get("/v1/models/half/labels/old/metadata").json()

    assert metadata["model_spec"]["version"] == "1"


def test_metadata_tells_version_and_signatures(server: Any) -> None:
    answer = server.rest.get("/v1/models/half/versions/1/metadata").json()

    assert answer["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


LIMIT = 1 << 20
PREDICT = "/v1/models/half:predict"


@pytest.mark.parametrize(
    "gzipped", [pytest.param(False, id="plain"), pytest.param(True, id="gzip, a thousand times smaller")]
)
def test_a_body_over_the_limit_is_refused_and_the_server_lives(server: Any, *, gzipped: bool) -> None:
    body = b'{"instances": [1.0' + b" " * LIMIT + b"]}"
    headers = {"Content-Encoding": "gzip"} if gzipped else {}

    answer = server.rest.post(PREDICT, content=gzip.compress(body) if gzipped else body, headers=headers)

    assert answer.status_code == 413
    assert f"larger than {LIMIT} bytes" in answer.json()["error"]
    assert server.rest.post(PREDICT, json={"instances": [1.0]}).status_code == 200


def test_a_body_may_be_gzip(server: Any) -> None:
    answer = server.rest.post(
        PREDICT, content=gzip.compress(b'{"instances": [1.0]}'), headers={"Content-Encoding": "gzip"}
    )

    assert answer.json() == {"predictions": [3.5]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"instances": [1.0]}', id="no-gzip"),
        pytest.param(gzip.compress(b'{"instances": [1.0]}')[:-9], id="cut"),
    ],
)
def test_a_body_that_is_not_the_gzip_it_says_is_refused(server: Any, content: bytes) -> None:
    answer = server.rest.post(PREDICT, content=content, headers={"Content-Encoding": "gzip"})

    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]


def test_a_run_ends_at_the_flags_timeout(post: Post) -> None:
    answer = post("mixed", signature_name="slow", inputs={"count": 10**9})

    assert answer.status_code == 504


def test_a_connection_serves_many_requests(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("GET", "/v1/models/half/metadata")
        connection.getresponse().read()

    assert connection.sock is first
    connection.close()
