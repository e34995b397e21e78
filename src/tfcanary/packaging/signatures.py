"""
Signatures and attestations of what is in a registry, by cosign: with a key, or keyless where Sigstore is reached.
"""

import base64
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.errors import DoesNotHoldError
from tfcanary.packaging.programs import run
from tfcanary.packaging.registry import Access, Reference

LOG = logging.getLogger(__name__)

# A key of one's own is not in Sigstore's public log: it says who signed, and needs no network but the registry.
_PRIVATE_SIGNING = ("--use-signing-config=false", "--tlog-upload=false")
_PRIVATE_VERIFYING = ("--insecure-ignore-tlog",)

CYCLONEDX = "https://cyclonedx.org/bom"


@dataclass(frozen=True, slots=True)
class Signing:
    """
    Who signs: the holder of a key, or the identity that Sigstore vouches for.

    Attributes:
        key: a private key as cosign writes it, or the address of one in a key service; None signs keyless. Its password is
            in COSIGN_PASSWORD.
    """

    key: str | None = None

    @property
    def options(self) -> list[str]:
        """
        What cosign is given.
        """
        return ["--yes", *(("--key", self.key, *_PRIVATE_SIGNING) if self.key else ())]


@dataclass(frozen=True, slots=True)
class Trust:
    """
    Whose signatures hold.

    Attributes:
        key: the public key; None trusts an identity.
        identity: with no key, whom Sigstore's certificate must name.
        issuer: with no key, who vouched for the identity.
    """

    key: str | None = None
    identity: str | None = None
    issuer: str | None = None

    @property
    def options(self) -> list[str]:
        """
        What cosign is given.
        """
        if self.key:
            return ["--key", self.key, *_PRIVATE_VERIFYING]
        return [f"--certificate-identity={self.identity}", f"--certificate-oidc-issuer={self.issuer}"]


@contextmanager
def own_trust(signing: Signing) -> Iterator[Trust | None]:
    """
    Trust in the signer's own key while the body runs; None for a keyless signer, whose identity is not known here.
    """
    if signing.key is None:
        yield None
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(
            run(
                ["cosign", "public-key", "--key", signing.key],
                wanted=f"key {signing.key}: expected a private key",
            )
        )
        file.flush()
        yield Trust(file.name)


def sign(place: Reference, signing: Signing, access: Access) -> None:
    """
    Sign a digest, and store the signature beside it.
    """
    run(
        ["cosign", "sign", *signing.options, place.plain],
        wanted=f"signature: {place}: expected cosign to sign it",
        environment=access.environment,
    )


def sign_file(file: Path, signature: Path, signing: Signing) -> None:
    """
    Sign a file, and write the signature to another.
    """
    run(
        ["cosign", "sign-blob", *signing.options, "--bundle", signature, file],
        wanted=f"signature: {file}: expected cosign to sign it",
    )


def attest(place: Reference, kind: str, predicate: Path, signing: Signing, access: Access) -> None:
    """
    Sign a statement about a digest, and store it beside it.

    Args:
        place: the digest.
        kind: the statement's type, as a URI or a short name of cosign's.
        predicate: what is stated, as JSON.
        signing: who signs.
        access: how the registry is reached.
    """
    run(
        ["cosign", "attest", *signing.options, "--type", kind, "--predicate", predicate, place.plain],
        wanted=f"attestation: {place}: expected cosign to attach {predicate.name}",
        environment=access.environment,
    )


def verify(place: Reference, trust: Trust, access: Access) -> None:
    """
    Require a signature that holds.

    Raises:
        DoesNotHoldError: there is none by whom is trusted.
    """
    run(
        ["cosign", "verify", *trust.options, place.plain],
        wanted="expected one that the given key verifies"
        if trust.key
        else f"expected one by {trust.identity}",
        environment=access.environment,
    )


def attested(place: Reference, kind: str, trust: Trust, access: Access) -> list[dict[str, Any]]:
    """
    What trusted statements of a type say.

    Raises:
        DoesNotHoldError: there is none by whom is trusted.
    """
    said = run(
        ["cosign", "verify-attestation", *trust.options, "--type", kind, place.plain],
        wanted="expected an attestation that the given key verifies",
        environment=access.environment,
    )
    envelopes = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [dict(json.loads(base64.b64decode(envelope["payload"]))["predicate"]) for envelope in envelopes]


def complete(
    place: Reference, statements: Iterable[tuple[str, Path]], signing: Signing, access: Access
) -> None:
    """
    Sign a digest and attach what is stated about it, but for what is there: an earlier run may have ended in between.
    """
    with own_trust(signing) as trust:
        if not _is_signed(place, trust, access):
            LOG.info("signing %s", place)
            sign(place, signing, access)
        for kind, file in statements:
            if not _is_stated(place, kind, file, trust, access):
                LOG.info("attaching %s", file.name)
                attest(place, kind, file, signing, access)


def _is_signed(place: Reference, trust: Trust | None, access: Access) -> bool:
    if trust is None:
        return False
    try:
        verify(place, trust, access)
    except DoesNotHoldError:
        return False
    return True


def _is_stated(place: Reference, kind: str, file: Path, trust: Trust | None, access: Access) -> bool:
    if trust is None:
        return False
    try:
        return json.loads(file.read_text(encoding="utf-8")) in attested(place, kind, trust, access)
    except DoesNotHoldError:
        return False
