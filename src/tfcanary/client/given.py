"""
The requests that a user has for a model: those of a file, or the model's own warm-up records.
"""

from dataclasses import dataclass
from pathlib import Path

from tfcanary.client.answer import Interface
from tfcanary.client.requestfile import RequestLine, read_requests
from tfcanary.client.warmup import WarmupRecord, read_warmup


@dataclass(frozen=True, slots=True)
class Given:
    """
    Requests, and where they are from.

    Attributes:
        source: in words; where there are no requests, why.
    """

    source: str = ""
    requests: tuple[RequestLine | WarmupRecord, ...] = ()

    def require_fitting(self, interface: Interface) -> None:
        """
        Make sure that a model of this interface can be asked all of them.

        Raises:
            UsageError: with the first that cannot, by its line or record.
        """
        for entry in self.requests:
            entry.prepared(interface)


def given_by(requests: Path | None, saved_model: Path | None) -> Given:
    """
    Read the user's requests: those of a file, or the model's own warm-up records.

    Raises:
        UsageError: if a file or folder cannot be read, or is not what it should be.
    """
    if requests is not None:
        lines = read_requests(requests)
        return Given(f"{counted(len(lines), 'request')} of {requests.name}", lines)
    if saved_model is not None:
        records = read_warmup(saved_model)
        if not records:
            return Given(f"{saved_model} has no warm-up records of predictions")
        return Given(f"{counted(len(records), 'warm-up record')} of {saved_model}", records)
    return Given()


def counted(number: int, what: str) -> str:
    """
    A number of things, in words.
    """
    return f"{number} {what}{'' if number == 1 else 's'}"
