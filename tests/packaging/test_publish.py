"""
`nox -s publish` and `nox -s verify` against a real registry with TLS and passwords, by real helm and cosign.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from registries import PASSWORD, Registry, running
from releasing import KEY_PASSWORD, VERSION, Checkout, Key, Keyrings, Said, made_key

CHECKS = ["signature", "tag", "chart", "provenance", "sbom", "values", "schema", "strategies"]
CHART = "charts/tfserving-canary"


@dataclass(frozen=True, slots=True)
class Release:
    """
    A release that was published once: its sources, its keys, and the registry's storage after that.
    """

    source: Checkout
    keyring: Keyrings
    key: Key
    storage: Path
    digest: str


def publish(source: Checkout, registry: Registry, key: Key, **variables: str) -> Said:
    return source.run(
        *("publish", f"oci://{registry.address}/charts", f"--key={key.private}", *registry.options),
        **{"COSIGN_PASSWORD": KEY_PASSWORD, **variables},
    )


def verify(release: Release, registry: Registry, *options: str, source: Checkout | None = None) -> Said:
    return (source or release.source).run(
        *("verify", f"oci://{registry.address}/{CHART}@{release.digest}"),
        *(f"--key={release.key.public}", f"--keyring={release.keyring.public}", *registry.options, *options),
    )


@pytest.fixture(scope="module")
def release(
    checkout: Callable[[str], Checkout],
    keyrings: Callable[[], Keyrings],
    identity: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Release:
    source, keyring = checkout("published"), keyrings()
    source.release()
    said = source.run("package", *keyring.options)
    assert 0 == said.code, said.error
    folder = tmp_path_factory.mktemp("registry")
    key = made_key(folder)
    with running(folder, identity) as registry:
        said = publish(source, registry, key)
        assert 0 == said.code, said.error
    return Release(source, keyring, key, folder / "storage", said.out.splitlines()[0].partition("@")[2])


@pytest.fixture
def registry(release: Release, identity: Callable[..., object], tmp_path: Path) -> Iterator[Registry]:
    """
    A registry with the release in it, which a test may change.
    """
    shutil.copytree(release.storage, tmp_path / "storage")
    with running(tmp_path, identity) as found:
        yield found


@pytest.fixture
def empty(identity: Callable[..., object], tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path, identity) as found:
        yield found


def outcomes(said: Said) -> dict[str, str]:
    """
    What was verified, and how it came out.
    """
    return {line.split()[1]: line.split()[0] for line in said.out.splitlines()}


@pytest.mark.parametrize("chart", ["tfserving-canary", "tfserving-gateway"])
def test_what_was_published_is_verified(release: Release, registry: Registry, chart: str) -> None:
    digest = registry.run("crane", "digest", f"{registry.address}/charts/{chart}:{VERSION}").strip()
    said = release.source.run(
        *("verify", f"oci://{registry.address}/charts/{chart}@{digest}", f"--key={release.key.public}"),
        *(f"--keyring={release.keyring.public}", *registry.options),
    )

    assert 0 == said.code, said.error
    assert dict.fromkeys(CHECKS, "held") == outcomes(said)


def test_the_same_again_changes_nothing(release: Release, registry: Registry) -> None:
    before = registry.files()

    said = publish(release.source, registry, release.key)

    assert 0 == said.code, said.error
    assert release.digest in said.out
    assert before == registry.files()


def test_what_an_interrupted_run_left_out_is_added(release: Release, empty: Registry) -> None:
    """
    The chart was pushed, and the network went away before it was signed.
    """
    empty.run(
        "helm",
        "push",
        release.source.root / "dist" / f"tfserving-canary-{VERSION}.tgz",
        f"oci://{empty.address}/charts",
    )
    said = verify(release, empty)
    assert {"signature": "failed", "sbom": "failed", "values": "failed"} == {
        name: outcome for name, outcome in outcomes(said).items() if outcome == "failed"
    }

    assert 0 == publish(release.source, empty, release.key).code
    assert 0 == verify(release, empty).code


@pytest.fixture(scope="module")
def another(release: Release, checkout: Callable[[str], Checkout]) -> Checkout:
    """
    A release under the same version, in which one chart has one line more.
    """
    source = checkout("another")
    with (source.root / "charts/tfserving-canary/templates/NOTES.txt").open("a") as notes:
        notes.write("One line more.\n")
    source.release()
    said = source.run("package", *release.keyring.options)
    assert 0 == said.code, said.error
    return source


def test_a_version_with_other_content_is_refused(
    release: Release, registry: Registry, another: Checkout
) -> None:
    """
    A version is published once, and nothing else of the release is pushed either.
    """
    before = registry.files()

    said = publish(another, registry, release.key)

    assert 1 == said.code
    assert (
        f"error: version: oci://{registry.address}/{CHART}:{VERSION}: expected no other content" in said.error
    )
    assert before == registry.files()


def test_what_changed_after_it_was_packaged_is_refused(
    release: Release, empty: Registry, tmp_path: Path
) -> None:
    dist = tmp_path / "dist"
    shutil.copytree(release.source.root / "dist", dist)
    _flip(dist / f"tfserving-gateway-{VERSION}.tgz")

    said = release.source.run(
        *(
            "publish",
            f"oci://{empty.address}/charts",
            f"--key={release.key.private}",
            f"--dist={dist}",
            *empty.options,
        )
    )

    assert 1 == said.code
    assert f"error: {dist}: tfserving-gateway-{VERSION}.tgz: expected sha256 " in said.error
    assert not empty.files()


def test_a_release_without_provenance_is_refused(release: Release, empty: Registry, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    assert 0 == release.source.run("package", f"--output={dist}").code

    said = release.source.run(
        *(
            "publish",
            f"oci://{empty.address}/charts",
            f"--key={release.key.private}",
            f"--dist={dist}",
            *empty.options,
        )
    )

    assert 2 == said.code
    assert f"expected its provenance (tfserving-canary-{VERSION}.tgz.prov), got none" in said.error


def test_a_registry_whose_certificate_is_not_trusted_gets_nothing(release: Release, empty: Registry) -> None:
    said = release.source.run(
        *("publish", f"oci://{empty.address}/charts", f"--key={release.key.private}"),
        f"--registry-config={empty.credentials}",
    )

    assert 3 == said.code
    assert "certificate signed by unknown authority" in said.error
    assert not empty.files()


def test_a_registry_that_asks_for_a_password_gets_one(
    release: Release, empty: Registry, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger" / "config.json"
    stranger.parent.mkdir()
    stranger.write_text("{}")

    said = release.source.run(
        *(
            "publish",
            f"oci://{empty.address}/charts",
            f"--key={release.key.private}",
            f"--ca-file={empty.ca}",
        ),
        f"--registry-config={stranger}",
    )

    assert 3 == said.code
    assert "UNAUTHORIZED" in said.error
    assert not empty.files()


def test_no_program_is_given_a_secret(release: Release, empty: Registry, tmp_path: Path) -> None:
    """
    Every user of a machine can list the arguments of its programs.
    """
    programs, seen = tmp_path / "programs", tmp_path / "seen"
    programs.mkdir()
    for name in ("helm", "cosign", "crane"):
        real = shutil.which(name)
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {seen}\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)

    said = publish(release.source, empty, release.key, PATH=f"{programs}:{os.environ['PATH']}")

    assert 0 == said.code, said.error
    listed = seen.read_text()
    assert {"helm", "cosign", "crane"} == {line.split()[0] for line in listed.splitlines()}
    assert PASSWORD not in listed
    assert KEY_PASSWORD not in listed


def _flip(path: Path) -> None:
    """
    Change one byte in the middle of a file.
    """
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@dataclass(frozen=True, slots=True)
class Scene:
    """
    What somebody tampers with: a published release, the registry that has it, and a folder of their own.
    """

    release: Release
    registry: Registry
    folder: Path


def _layer(at: Scene, kind: str) -> Path:
    manifest = json.loads(at.registry.blob(at.release.digest).read_text())
    return at.registry.blob(
        next(layer["digest"] for layer in manifest["layers"] if kind in layer["mediaType"])
    )


def _chart_byte(at: Scene) -> tuple[str, ...]:
    _flip(_layer(at, "chart.content"))
    return ()


def _values_file(at: Scene) -> tuple[str, ...]:
    values = at.folder / "values"
    shutil.copytree(at.release.source.root / "values", values)
    file = values / "canary-10.yaml"
    file.write_text(file.read_text().replace("canary: 10", "canary: 11").replace("stable: 90", "stable: 89"))
    return (f"--values={values}",)


def _provenance(at: Scene) -> tuple[str, ...]:
    _flip(_layer(at, "chart.provenance"))
    return ()


def _signature_of_another_key(at: Scene) -> tuple[str, ...]:
    return (f"--key={made_key(at.folder / 'other').public}",)


def _sbom_removed(at: Scene) -> tuple[str, ...]:
    place = f"{at.registry.address}/{CHART}"
    (index,) = (tag for tag in at.registry.run("crane", "ls", place).split() if tag.startswith("sha256-"))
    for each in json.loads(at.registry.run("crane", "manifest", f"{place}:{index}"))["manifests"]:
        if "cyclonedx" in json.dumps(each):
            at.registry.run("crane", "delete", f"{place}@{each['digest']}")
    return ()


def _tag_moved(at: Scene) -> tuple[str, ...]:
    """
    Somebody who may write to the registry pushes another chart under the version.
    """
    chart = at.folder / "tfserving-canary"
    chart.mkdir()
    (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: tfserving-canary\nversion: {VERSION}\n")
    at.registry.run("helm", "package", chart, f"--destination={at.folder}")
    at.registry.run(
        "helm", "push", at.folder / f"tfserving-canary-{VERSION}.tgz", f"oci://{at.registry.address}/charts"
    )
    return ()


# What was done, the check that refuses it, the reason, and which other checks cannot hold then either.
TAMPERINGS = {
    "chart": (_chart_byte, "chart: expected sha256:", {"provenance"}),
    "values": (_values_file, "values: values/canary-10.yaml: expected sha256 ", set()),
    "provenance": (_provenance, "provenance: expected sha256:", set()),
    "signature": (
        _signature_of_another_key,
        "signature: expected one that the given key verifies, got",
        {"sbom", "values"},
    ),
    "sbom": (_sbom_removed, "sbom: expected an attestation that the given key verifies, got", set()),
    "tag": (_tag_moved, f"tag: expected {VERSION} to stand for sha256:", set()),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampering_is_refused_by_its_name(
    release: Release, registry: Registry, tmp_path: Path, name: str
) -> None:
    tamper, problem, others = TAMPERINGS[name]
    options = tamper(Scene(release, registry, tmp_path))

    said = verify(release, registry, *options)

    assert 1 == said.code, said.out
    assert problem in said.error
    failed = {check for check, outcome in outcomes(said).items() if outcome == "failed"}
    # Whether a broken archive can still be read depends on the byte.
    assert {name} | others == failed - ({"schema", "strategies"} if name == "chart" else set())


def test_provenance_by_another_key_is_refused(
    release: Release, registry: Registry, keyrings: Callable[[], Keyrings]
) -> None:
    said = verify(release, registry, f"--keyring={keyrings().public}")

    assert 1 == said.code, said.out
    assert ["provenance"] == [name for name, outcome in outcomes(said).items() if outcome == "failed"]


def test_a_digest_that_is_not_there_is_wrong_use(release: Release, empty: Registry) -> None:
    said = verify(release, empty)

    assert 2 == said.code, said.error
    assert "expected it in the registry, got none" in said.error
