"""
What a request may cost before it is refused.

The original has no flags for these, so they come from the environment, where a container sets them without its
command line changing.
"""

import os
import zlib
from dataclasses import dataclass

from tfcanary.errors import UsageError
from tfcanary.modelserver.status import Code, ServingError, invalid


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The limits, in bytes.

    Attributes:
        request_bytes: a REST body, before and after it is inflated, or a gRPC message. JSON takes up to twenty times
            as much memory while it is read.
        tensor_bytes: one tensor; a message of a few bytes can name any shape.
    """

    request_bytes: int = 32 << 20
    tensor_bytes: int = 1 << 30


def from_environment() -> Limits:
    """
    Read ``TFCANARY_MAX_REQUEST_BYTES`` and ``TFCANARY_MAX_TENSOR_BYTES``.
    """
    default = Limits()
    return Limits(
        request_bytes=_number("TFCANARY_MAX_REQUEST_BYTES", default.request_bytes),
        tensor_bytes=_number("TFCANARY_MAX_TENSOR_BYTES", default.tensor_bytes),
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise UsageError(f"{name}: expected a number of bytes from 1 to {2**31 - 1}, got {text!r}")
    return int(text)


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
