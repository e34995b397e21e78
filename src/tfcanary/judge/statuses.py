"""
Whose fault an answer's status is. HTTP and gRPC count alike.

A wrong model name or signature is 404 or 400, and not 5xx: an answer that stable would not have given is the model's fault.
What the gateway or the server refuses before any model is asked says nothing about one, and is left out.
"""

import enum

# By HTTP status and by gRPC code: refused before a model is asked, by who the client is or what it sent.
# gRPC: CANCELLED, PERMISSION_DENIED, UNAUTHENTICATED.
CLIENT_STATUSES = frozenset({401, 403, 405, 406, 407, 408, 411, 413, 414, 415, 417, 421, 426, 431, 499})
CLIENT_CODES = frozenset({1, 7, 16})


class Blame(enum.Enum):
    """
    Whose fault an answer is.
    """

    NOBODY = "nobody"
    MODEL = "model"
    CLIENT = "client"


def blame(status: int | None, code: int | None) -> Blame:
    """
    Whose fault an answer of a track is.

    Args:
        status: the HTTP status; None if there was no answer.
        code: the gRPC status code; None for REST. A failed call has the HTTP status 200.
    """
    if code is not None:
        return Blame.NOBODY if code == 0 else Blame.CLIENT if code in CLIENT_CODES else Blame.MODEL
    if status is None:
        return Blame.MODEL
    if status in CLIENT_STATUSES:
        return Blame.CLIENT
    return Blame.NOBODY if 200 <= status < 300 else Blame.MODEL
