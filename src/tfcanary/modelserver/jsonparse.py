"""
Parse the REST API's JSON as TensorFlow Serving's parser does.

The original is ParseJson() in tensorflow_serving/util/json_tensor.cc: RapidJSON 1.1.0 with kParseNanAndInfFlag and
kParseStopWhenDoneFlag. It skips a byte order mark, stops after the first value, takes NaN and Inf, keeps the bytes of
strings that are no UTF-8, and finds the first of two members with one name. orjson reads what is plain JSON.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson

from tfcanary.modelserver.limits import without_strings
from tfcanary.modelserver.status import ServingError, invalid

# Messages quote the beginning of a value, because requests have megabytes.
_SHOWN_CHARACTERS = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = " \t\n\r"
# A string with its escapes, or a number that Python's parser has no word for.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|-?Inf(?:inity)?|-NaN', re.DOTALL)
_SURROGATES = re.compile(
    r"\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})(?P<pair>\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    r"|\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
# What RapidJSON says, by how Python's message begins.
_MESSAGES = {
    "Expecting property name": "Missing a name for object member.",
    "Illegal trailing comma": "Missing a name for object member.",
    "Expecting ':'": "Missing a colon after a name of object member.",
    "Unterminated string": "Missing a closing quotation mark in string.",
    "Invalid \\": "Invalid escape character in string.",
    "Invalid control character": "Invalid escape character in string.",
}
_WORDS = ("null", "true", "false", "NaN", "Infinity", "-NaN", "-Infinity")
_MISSING_COMMA = {
    "{": "Missing a comma or } after an object member.",
    "[": "Missing a comma or ] after an array element.",
}


def parse_object(body: bytes) -> dict[str, Any]:
    """
    Parse a body whose top level must be an object.

    Returns:
        the object. Bytes of strings that are no UTF-8 are lone surrogates, as Python's "surrogateescape" has them.

    Raises:
        ServingError: INVALID_ARGUMENT, because the body is no JSON or no object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _loads_leniently(body)
    else:
        if isinstance(document, dict) and _has_a_name_twice(document, body):
            document = _loads_leniently(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


def _has_a_name_twice(document: dict[str, Any], body: bytes) -> bool:
    """
    Whether an object in the body has a name twice, of which orjson keeps the last: there are more colons than members.
    """
    colons = body.count(b":")
    if _members(document, colons) == colons:
        return False
    return _members(document, colons) != without_strings(body).count(b":")


def _members(document: dict[str, Any], most: int) -> int:
    """
    Count the members of all objects; stop at `most`.
    """
    count = 0
    level: list[Any] = [document]
    while level and count < most:
        inner: list[Any] = []
        for value in level:
            if type(value) is dict:
                count += len(value)
                inner.extend(value.values())
            else:
                inner.extend(value)
        level = [] if count == most else [value for value in inner if type(value) in {dict, list}]
    return count


def _loads_leniently(body: bytes) -> Any:
    text = body.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogateescape").lstrip(_BLANKS)
    if not text:
        raise invalid(f"JSON Parse error: The document is empty. at offset: {len(body)}")
    decoder = json.JSONDecoder(object_pairs_hook=_first_ones, parse_int=_integer, parse_float=_decimal)
    try:
        return decoder.raw_decode(_TOKENS.sub(_readable, text))[0]
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _parse_error(error, len(body) - len(text.encode("utf-8", "surrogateescape"))) from None


def _readable(match: re.Match[str]) -> str:
    """
    Replace a token that Python's parser does not read as RapidJSON does.
    """
    text = match[0]
    if text.startswith('"'):
        return _SURROGATES.sub(_surrogate, text) if "\\u" in text else text
    if text == "-NaN":
        return "NaN"
    return "-Infinity" if text.startswith("-") else "Infinity"


def _surrogate(match: re.Match[str]) -> str:
    """
    Refuse half a pair, and turn its other half without a first into the bytes that RapidJSON makes of it.
    """
    if match["low"]:
        return chr(int(match["low"], 16)).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    if match["high"] and not match["pair"]:
        raise _error("The surrogate pair in string is invalid.", match.start())
    return match[0]


def _first_ones(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def _integer(text: str) -> int | float:
    # More digits than Python converts to an integer are far more than 64 bits have.
    value = int(text) if len(text) < 32 else None
    return value if value is not None and -(2**63) <= value < 2**64 else _decimal(text)


def _decimal(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _error("Number too big to be stored in double.", 0)
    return value


def _parse_error(error: json.JSONDecodeError, skipped: int) -> ServingError:
    message = next((says for begins, says in _MESSAGES.items() if error.msg.startswith(begins)), None)
    if message is None and error.msg.startswith("Expecting ','"):
        message = _MISSING_COMMA[_container(error.doc[: error.pos])]
    offset = skipped + len(error.doc[: error.pos].encode("utf-8", "surrogateescape"))
    if message is None:
        return _error("Invalid value.", offset + _begun(error.doc[error.pos :]))
    return _error(message, offset)


def _begun(text: str) -> int:
    """
    Count the characters of a word that RapidJSON has read when it finds that the word is another.
    """
    return max(size for word in _WORDS for size in range(len(word) + 1) if text.startswith(word[:size]))


def _container(text: str) -> str:
    """
    Find the bracket that is open at the end of a text.
    """
    closed = 0
    brackets = without_strings(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    for character in reversed(brackets):
        closed += {"]": 1, "}": 1, "[": -1, "{": -1}.get(character, 0)
        if closed < 0:
            return character
    return "{"


def _error(message: str, offset: int) -> ServingError:
    return invalid(f"JSON Parse error: {message} at offset: {offset}")


def require_text(names: Iterable[str]) -> None:
    """
    Refuse names that are no UTF-8, which no proto can hold.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise invalid(f"name {shown(name)}: expected UTF-8, got other bytes") from None


def shown(value: Any) -> str:
    """
    Quote the beginning of a value for a message.
    """
    encoder = json.JSONEncoder(ensure_ascii=False)
    text = ""
    for piece in encoder.iterencode(value):
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return text[:_SHOWN_CHARACTERS] + "…"
    return text
