"""
What the user has for predictions: files of requests, warm-up records; and what is made where there is nothing.
"""

import io
import json
import struct

import numpy as np
import pytest

from tfcanary.client import requestfile, tfrecord, warmup
from tfcanary.client.answer import Signature, Tensor
from tfcanary.client.made import made, why_not
from tfcanary.client.requestfile import read_requests
from tfcanary.client.tensors import DTYPES, protos, to_tensor
from tfcanary.client.tfrecord import masked_crc32c, records
from tfcanary.client.warmup import FILE, read_warmup
from tfcanary.errors import UsageError

HALF = {
    "serving_default": Signature({"x": Tensor("DT_FLOAT", (-1,))}, {"y": Tensor("DT_FLOAT", (-1,))}),
    "two": Signature(
        {"a": Tensor("DT_INT32", (-1, 2)), "b": Tensor("DT_STRING", (-1,))}, {"y": Tensor("DT_FLOAT", (-1,))}
    ),
}


@pytest.fixture
def written(tmp_path):
    """
    Write lines, each a JSON value or text.
    """

    def write(*lines):
        file = tmp_path / "requests.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return file

    return write


def test_rows_and_columns_become_the_same_tensors(written):
    two = [{"a": [1, 2], "b": "tea"}, {"a": [3, 4], "b": {"b64": "/w=="}}]
    file = written(
        {"instances": [1.0, 2.5]},
        "",
        {"inputs": {"x": [1, 2.5]}},
        {"inputs": [1, 2.5], "label": 7, "headers": {"X-Trace": "a b"}},
        {"instances": two, "signature_name": "two"},
    )

    lines = read_requests(file)
    one, other, third, fourth = (line.prepared(HALF) for line in lines)

    assert [[1.0, 2.5]] * 3 == [each.inputs["x"].values.tolist() for each in (one, other, third)]
    assert ("7", {"X-Trace": "a b"}) == (third.label, third.headers)
    assert [[1, 2], [3, 4]] == fourth.inputs["a"].values.tolist()
    assert [b"tea", b"\xff"] == fourth.inputs["b"].values.tolist()
    assert {"signature_name": "two", "instances": two} == fourth.rest_body()
    assert "requests 'requests.jsonl' line 4" == lines[2].where


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "line 1: expected a JSON object, got JSONDecodeError"),
        ("[" * 100_000, "line 1: expected a JSON object, got RecursionError"),
        ([1], "line 1: expected a JSON object, got list"),
        ({"instances": [1], "Label": "a"}, "line 1: Label: expected one of instances, inputs"),
        ({"label": "a"}, "expected either instances or inputs, got neither"),
        ({"instances": [1], "inputs": [1]}, "expected either instances or inputs, got both"),
        ({"instances": [1], "signature_name": 3}, "signature_name: expected a string, got 3"),
        ({"instances": [1], "label": 1.5}, "label: expected a string or a whole number, got 1.5"),
        ({"instances": [1], "label": True}, "label: expected a string or a whole number, got True"),
        ({"instances": [1], "headers": []}, r"headers: expected an object, got \[\]"),
        ({"instances": [1], "headers": {"a": 1}}, "headers: a: expected a string of printable ASCII, got 1"),
        ({"instances": [1], "headers": {"a": "\n"}}, "headers: a: expected a string of printable ASCII"),
        ({"instances": [1], "headers": {"a-bin": "x"}}, "names that REST and gRPC can send, got 'a-bin'"),
        ({"instances": [1], "headers": {"ä": "x"}}, "names that REST and gRPC can send, got 'ä'"),
        ({"instances": [1], "headers": {"Host": "x"}}, "headers: Host is the client's own"),
    ],
)
def test_a_line_that_is_no_request_is_named_by_its_key(written, line, error):
    with pytest.raises(UsageError, match=error):
        read_requests(written(line))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            {"instances": [1], "signature_name": "three"},
            "signature_name: expected one of serving_default, two",
        ),
        ({"instances": ["a"]}, "instances: x: expected DT_FLOAT, got 'a'"),
        ({"instances": []}, "instances: expected a list of rows"),
        ({"instances": [[1]]}, r"instances: x: expected shape \[-1\], got \[1, 1\]"),
        ({"instances": [{"z": 1}]}, "instances: expected x, got z"),
        ({"inputs": {"x": [1], "z": [1]}}, "inputs: expected x, got x, z"),
        ({"instances": [1], "signature_name": "two"}, "instances: expected a, b, got 1"),
        (
            {"instances": [{"a": [1, 2], "b": ""}, {"a": [1, 2]}], "signature_name": "two"},
            "instances: row 2: expected a, b, got",
        ),
        (
            {"inputs": {"a": [[1, 2.5]], "b": ["x"]}, "signature_name": "two"},
            "inputs: a: expected DT_INT32, got 2.5",
        ),
    ],
)
def test_a_request_that_the_model_does_not_take_is_named_by_its_key(written, line, error):
    (read,) = read_requests(written(line))

    with pytest.raises(UsageError, match=f"line 1: {error}"):
        read.prepared(HALF)


def test_a_file_is_bounded(written, monkeypatch):
    monkeypatch.setattr(requestfile, "MOST_REQUESTS", 2)
    line = {"instances": [1]}

    assert 2 == len(read_requests(written(line, line)))
    with pytest.raises(UsageError, match="expected 1 to 2 lines, got 3"):
        read_requests(written(line, line, line))
    with pytest.raises(UsageError, match="expected 1 to 2 lines, got 0"):
        read_requests(written(""))
    monkeypatch.setattr(requestfile, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match="expected at most 0 MiB, got more"):
        read_requests(written(line))
    with pytest.raises(UsageError, match="cannot be read"):
        read_requests(written(line).with_name("none"))


def record(content):
    """
    One record of a TFRecord file.
    """
    head = struct.pack("<Q", len(content))
    ends = (struct.pack("<I", masked_crc32c(part)) for part in (head, content))
    return head + next(ends) + content + next(ends)


def test_the_checksum_is_that_of_the_format():
    """
    A CRC-32C has this value for this string in its specification; the mask is that of TFRecord.
    """
    crc = 0xE3069283

    assert (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF == masked_crc32c(b"123456789")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda content: content[:-1], "record 2: cut short"),
        (lambda content: content + b"\x00", "record 3: cut short"),
        (lambda content: content[:-5] + b"X" + content[-4:], "record 2: does not have its checksum"),
        (lambda content: b"\xff" + content[1:], "record 1: its length does not have its checksum"),
        (lambda content: content + record(b"x" * 101), "record 3: 101 bytes, expected at most 100"),
    ],
)
def test_a_broken_record_is_named(change, error):
    whole = record(b"one") + record(b"two")

    assert [b"one", b"two"] == list(records(io.BytesIO(whole), 100))
    with pytest.raises(ValueError, match=error):
        list(records(io.BytesIO(change(whole)), 100))


def log(signature, **inputs):
    """
    A warm-up record of one prediction.
    """
    made_log = protos().prediction_log_pb2.PredictionLog()
    request = made_log.predict_log.request
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value))
    return made_log.SerializeToString()


@pytest.fixture
def model(tmp_path):
    """
    Write a model's folder with these records.
    """

    def write(*contents):
        (tmp_path / "saved_model.pb").touch()
        file = tmp_path / FILE
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"".join(map(record, contents)))
        return tmp_path

    return write


def test_warmup_records_are_requests(model):
    other = protos().prediction_log_pb2.PredictionLog()
    other.classify_log.SetInParent()
    one = log("", x=np.array([1, 2], np.float32))
    two = log("two", a=np.ones((3, 2), np.int32), b=[b"x", b"y", b"z"])

    first, second = read_warmup(model(one, other.SerializeToString(), two))

    assert ("serving_default", "two") == (first.signature, second.signature)
    assert "tf_serving_warmup_requests record 3" == second.where
    request = first.prepared(HALF)
    assert {"signature_name": "serving_default", "inputs": {"x": [1.0, 2.0]}} == request.rest_body()
    assert (3, 2) == second.prepared(HALF).inputs["a"].values.shape


def test_only_the_first_records_are_read(model, monkeypatch):
    monkeypatch.setattr(warmup, "MOST_RECORDS", 2)

    assert 2 == len(read_warmup(model(*[log("", x=np.zeros(1, np.float32))] * 3)))


def test_a_model_without_records_has_no_requests(model):
    folder = model()
    (folder / FILE).unlink()

    assert () == read_warmup(folder)


def test_what_is_no_model_or_no_record_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match="expected the folder of one version, with saved_model"):
        read_warmup(tmp_path / "none")
    with pytest.raises(UsageError, match="record 1: expected a PredictionLog"):
        read_warmup(model(b"\xff not a PredictionLog"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (log("three", x=np.zeros(1, np.float32)), "three: expected inputs none, got x DT_FLOAT"),
        (
            log("", x=np.zeros(1)),
            "expected inputs x DT_FLOAT, got x DT_DOUBLE; is it the model that is served",
        ),
        (log("", z=np.zeros(1, np.float32)), "expected inputs x DT_FLOAT, got z DT_FLOAT"),
    ],
    ids=["signature", "dtype", "name"],
)
def test_a_record_of_another_model_is_refused(model, content, error):
    (read,) = read_warmup(model(content))

    with pytest.raises(UsageError, match=f"record 1: signature .*{error}"):
        read.prepared(HALF)


@pytest.mark.parametrize("shape", [(), (-1,), (-1, 3, -1), None])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_an_input_of_any_signature_is_made(dtype, shape):
    signature = Signature({"x": Tensor(dtype, shape)}, {"y": Tensor("DT_FLOAT", (-1,))})

    request, again = made("serving_default", signature), made("serving_default", signature)

    assert "" == why_not(signature)
    value = request.inputs["x"]
    assert dtype == value.dtype
    assert {(): (), (-1,): (1,), (-1, 3, -1): (1, 3, 1), None: (1,)}[shape] == value.values.shape
    assert DTYPES[dtype] == value.values.dtype
    assert value.values.tolist() == again.inputs["x"].values.tolist()


def test_inputs_differ_by_their_names():
    signature = Signature(
        {name: Tensor("DT_FLOAT", (-1, 2)) for name in ("a", "b")}, {"y": Tensor("DT_FLOAT", None)}
    )

    inputs = made("serving_default", signature).inputs

    assert inputs["a"].values.tolist() != inputs["b"].values.tolist()


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (Signature({}, {"y": Tensor("DT_FLOAT", None)}), "takes no input"),
        (Signature({"x": Tensor("DT_FLOAT", None)}, {}), "has no output"),
        (
            Signature({"x": Tensor("DT_COMPLEX64", (-1,))}, {"y": Tensor("DT_FLOAT", None)}),
            "takes x as DT_COMPLEX64",
        ),
        (
            Signature({"x": Tensor("DT_FLOAT", (10**4, 10**4))}, {"y": Tensor("DT_FLOAT", None)}),
            "more than 4194304",
        ),
        (
            Signature(
                {"x": Tensor("DT_STRING", (-1,))},
                {"y": Tensor("DT_FLOAT", None)},
                "tensorflow/serving/regress",
            ),
            "is made for regress",
        ),
    ],
)
def test_no_input_is_made_where_none_can_be(signature, reason):
    assert reason in why_not(signature)


def test_a_checksum_of_a_length_is_held_too(monkeypatch):
    """
    Without it, a broken length reads as a record of any size.
    """
    whole = bytearray(record(b"one"))
    whole[0] = 200
    monkeypatch.setattr(tfrecord, "masked_crc32c", lambda _: 0)

    with pytest.raises(ValueError, match="checksum"):
        list(records(io.BytesIO(bytes(whole)), 100))
