"""
How much memory a request may take before it is refused.

TensorFlow Serving has no flags for these limits. They come from the environment, which a container can set without
changing its command line.
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
    The limits of a request.

    Attributes:
        request_bytes: bytes of a REST body or a gRPC message. JSON takes up to twenty times as much memory while it is
            read.
        inflated_bytes: bytes of a REST body after gzip is undone.
        tensor_bytes: bytes of one tensor; a message of a few bytes can name any shape.
        json_depth: levels of nested lists and objects, at most `MOST_DEPTH`. A parser spends its stack on depth, and
            numpy has no array with more dimensions.
    """

    request_bytes: int = 32 << 20
    inflated_bytes: int = 32 << 20
    tensor_bytes: int = 1 << 30
    json_depth: int = 64


MOST_BYTES = 2**31 - 1
MOST_DEPTH = 64
# Brackets in strings do not count. An unterminated string matches as a whole, and the parser refuses it: matching it
# again from each of its quotes would take time quadratic in its length.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def from_environment() -> Limits:
    """
    Read the limits from ``TFCANARY_MAX_REQUEST_BYTES`` and the other variables.

    Raises:
        UsageError: a variable is not a number in its range.
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
    Refuse JSON that is nested deeper than `limit` levels, before a parser spends its stack on it.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    brackets = without_strings(body).translate(None, _NOT_BRACKETS)
    if len(brackets) <= limit:
        return
    depth = np.cumsum(_STEPS[np.frombuffer(brackets, dtype=np.uint8)], dtype=np.int64)
    if int(depth.max()) > limit:
        raise invalid(f"JSON Parse error: nested deeper than {limit} levels")


def without_strings(body: bytes) -> bytes:
    """
    Remove the strings from JSON, with which its structure remains.
    """
    # Most bodies have all their strings at the beginning, followed by megabytes of numbers.
    end = body.rfind(b'"') + 1
    return _STRINGS.sub(b"", body[:end]) + body[end:]


def too_large(what: str, limit: int) -> ServingError:
    """
    Build the error for a body over the limit; its HTTP status is 413.
    """
    return ServingError(Code.RESOURCE_EXHAUSTED, f"{what} is larger than {limit} bytes", http_status=413)


def inflate(data: bytes, limit: int) -> bytes:
    """
    Undo gzip, and stop as soon as the result exceeds `limit` bytes.

    Raises:
        ServingError: the data is not gzip, is cut short, or inflates to more than the limit.
    """
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        result = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise invalid(f"the body is not gzip, although its Content-Encoding says it is: {error}") from None
    if len(result) > limit:
        raise too_large("the inflated body", limit)
    if not inflater.eof:
        raise invalid("the body is gzip that ends early")
    return result
