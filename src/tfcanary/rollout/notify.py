"""
Tell the end of a rollout to a webhook, in the form that Slack and those like it take.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.text import short

TIMEOUT_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def told(variable: str, record: Mapping[str, Any]) -> None:
    """
    Send one line about a rollout that has ended.

    Args:
        variable: the name of the environment variable that holds the URL, which is a secret.
        record: the release record.

    Raises:
        UsageError: if the variable holds no https URL.
        UnreachableError: if nobody takes it.
    """
    url = os.environ.get(variable, "")
    parts = urlsplit(url)
    if not parts.hostname or (parts.scheme != "https" and parts.hostname not in _LOOPBACK):
        raise UsageError(
            f"notify.urlFrom: expected an https URL in the environment variable {variable}, got none"
        )
    try:
        answer = httpx.post(
            url, json={"text": line(record)}, timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        # The message of some of these quotes the URL.
        raise UnreachableError(
            f"webhook of {variable}: expected an answer, got {type(exc).__name__}"
        ) from exc
    if not answer.is_success:
        raise UnreachableError(
            f"webhook of {variable}: expected status 200, got {answer.status_code} {short(answer.text)}"
        )


def line(record: Mapping[str, Any]) -> str:
    """
    What a reader of a channel needs to know.
    """
    return (
        f"{record['release']}: version {record['from']} to {record['to']}: {record['end']}. {record['reason']} "
        f"(rollout {record['run']}, started by {record['startedBy']})"
    )
