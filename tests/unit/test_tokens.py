"""
A token's claims are read, and its text is not shown.
"""

import base64
import json
import re

import pytest

from tfcanary.errors import UsageError
from tfcanary.routing.tokens import Token, read_token


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def written(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_claims_are_texts_and_lists_of_them(tmp_path):
    claims = {"group": "canary", "aud": ["a", "b"], "exp": 17, "admin": True, "odd": [1]}

    token = read_token(written(tmp_path, f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln\n"))

    assert {"group": "canary", "aud": ("a", "b")} == token.claims
    assert f"Bearer {part({'alg': 'RS256'})}.{part(claims)}.c2ln" == token.header["authorization"]


def test_a_token_never_shows_its_text(tmp_path):
    token = read_token(written(tmp_path, f"{part({})}.{part({'group': 'canary'})}.c2ln"))

    assert "c2ln" not in repr(token)


@pytest.mark.parametrize("signature", ["Abc", "xyz", "A"])
def test_a_forged_token_differs_in_its_signature_alone(signature):
    token = Token(f"head.body.{signature}", {"group": "canary"})

    forged = token.forged()

    assert "head.body" == forged.text.rpartition(".")[0]
    assert signature != forged.text.rpartition(".")[2]
    assert token.claims == forged.claims


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("secret", "expected one signed JWT", id="no-jwt"),
        pytest.param("a.secret.c", "parts are JSON maps", id="no-json"),
        pytest.param(f"a.{part(['secret'])}.c", "parts are JSON maps", id="list"),
        pytest.param("a..secret", "expected one signed JWT", id="no-claims"),
        pytest.param(b"a.\xff.secret", "expected one signed JWT", id="binary"),
        pytest.param(f"a.{part({})}.sec\nret", "expected one signed JWT", id="wrapped"),
        pytest.param(f"Bearer a.{part({})}.secret", "expected one signed JWT", id="header"),
        pytest.param("a.b." + "secret" * 10_000, "at most 32768 bytes", id="large"),
        pytest.param("a." + base64.urlsafe_b64encode(b"[" * 10_000).decode() + ".secret", "JSON", id="deep"),
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(tmp_path, content, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_token(written(tmp_path, content))

    assert "secret" not in str(caught.value)


def test_a_token_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"'.*nowhere': cannot be read: No such file"):
        read_token(tmp_path / "nowhere")
