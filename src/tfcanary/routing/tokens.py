"""
A client's token and its claims. They are read without verifying them: the gateway verifies.

The token itself is a secret. It is sent in a header, and appears in no log, report or argument.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import jwt

from tfcanary.errors import UsageError

# Envoy takes no request whose headers are larger than 60 KiB together.
MOST_BYTES = 32 * 1024
_PART = re.compile(rb"[A-Za-z0-9_=-]+")


@dataclass(frozen=True, slots=True)
class Token:
    """
    One token.

    Attributes:
        text: as the client sends it (RFC 7519, compact form).
        claims: those that are a string or a list of strings; routes match no others.
    """

    text: str = field(repr=False)
    claims: Mapping[str, str | tuple[str, ...]]

    @property
    def header(self) -> Mapping[str, str]:
        """
        The header that a client sends.
        """
        return {"authorization": f"Bearer {self.text}"}

    def forged(self) -> "Token":
        """
        The same claims, with a forged signature.
        """
        head, body, signature = self.text.split(".")
        other = "A" if signature[0] != "A" else "B"
        return Token(f"{head}.{body}.{other}{signature[1:]}", self.claims)


def read_token(file: Path) -> Token:
    """
    Read a token from a file.

    Raises:
        UsageError: if there is none in it; the message has nothing of the file's content.
    """
    where = f"token {str(file)!r}"
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{where}: cannot be read: {exc.strerror}") from exc
    parts = content.strip().split(b".")
    # A line break inside would make a header that is illegal, and errors about such show it whole.
    if len(content) > MOST_BYTES or len(parts) != 3 or not all(map(_PART.fullmatch, parts)):
        raise UsageError(
            f"{where}: expected one signed JWT of at most {MOST_BYTES} bytes, got something else"
        )
    text = content.strip().decode("ascii")
    try:
        claims = jwt.decode(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        # PyJWT's own message may quote the token.
        raise UsageError(f"{where}: expected a JWT whose parts are JSON maps, got something else") from None
    return Token(
        text, MappingProxyType({name: said for name, value in claims.items() if (said := _said(value))})
    )


def _said(value: object) -> str | tuple[str, ...] | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    return None
