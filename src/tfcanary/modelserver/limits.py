"""
What a request may cost before it is refused.

The original has no flags for these, so they come from the environment, where a container sets them without its
command line changing.
"""

import os
import re
import zlib
from dataclasses import dataclass

import numpy as np

from tfcanary.errors import UsageError
from tfcanary.modelserver.status import Code, ServingError, invalid


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The limits, in bytes.

    Attributes:
        request_bytes: a REST body, or a gRPC message. JSON takes up to twenty times as much memory while it is read.
        inflated_bytes: a REST body that came as gzip.
        tensor_bytes: one tensor; a message of a few bytes can name any shape.
        json_depth: how deep lists and objects may be nested. The parser's own stack ends above `MOST_DEPTH`, and numpy
            has no tensor of a higher rank.
    """

    request_bytes: int = 32 << 20
    inflated_bytes: int = 32 << 20
    tensor_bytes: int = 1 << 30
    json_depth: int = 64


MOST_BYTES = 2**31 - 1
MOST_DEPTH = 64
# Strings first, so that what is in them counts for nothing. One that never ends is the parser's to refuse, and is taken
# as a whole: tried again from each of its quotes, it would take the square of its length.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def from_environment() -> Limits:
    """
    Read ``TFCANARY_MAX_REQUEST_BYTES`` and the others.
    """
    default = Limits()
    return Limits(
        request_bytes=_number("TFCANARY_MAX_REQUEST_BYTES", default.request_bytes),
        inflated_bytes=_number("TFCANARY_MAX_INFLATED_BYTES", default.inflated_bytes),
        tensor_bytes=_number("TFCANARY_MAX_TENSOR_BYTES", default.tensor_bytes),
        json_depth=_number("TFCANARY_MAX_JSON_DEPTH", default.json_depth, MOST_DEPTH, "levels"),
    )


def _number(name: str, default: int, most: int = MOST_BYTES, unit: str = "bytes") -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= most:
        raise UsageError(f"{name}: expected a number of {unit} from 1 to {most}, got {text!r}")
    return int(text)


def require_shallow(body: bytes, limit: int) -> None:
    """
    Refuse JSON that is nested deeper than `limit`, before it is parsed: a parser spends its stack on depth.
    """
    # All strings are in the beginning, as a rule, and what comes after is megabytes of numbers.
    end = body.rfind(b'"') + 1
    brackets = (_STRINGS.sub(b"", body[:end]) + body[end:]).translate(None, _NOT_BRACKETS)
    if len(brackets) <= limit:
        return
    depth = np.cumsum(_STEPS[np.frombuffer(brackets, dtype=np.uint8)], dtype=np.int64)
    if int(depth.max()) > limit:
        raise invalid(f"JSON Parse error: nested deeper than {limit} levels")


def too_large(what: str, limit: int) -> ServingError:
    """
    Build the error of a body over the limit; over HTTP it has a status of its own.
    """
    return ServingError(Code.RESOURCE_EXHAUSTED, f"{what} is larger than {limit} bytes", http_status=413)


def inflate(data: bytes, limit: int) -> bytes:
    """
    Undo gzip, and stop as soon as more than `limit` comes out.
    """
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        result = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise invalid(f"the body is not the gzip that its Content-Encoding says: {error}") from None
    if len(result) > limit:
        raise too_large("the inflated body", limit)
    if not inflater.eof:
        raise invalid("the body is gzip that ends early")
    return result
