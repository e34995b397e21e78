"""
What a release is refused for, without the programs that make one.
"""

import datetime as dt
import hashlib
from pathlib import Path

import pytest

from tfcanary.errors import DoesNotHoldError, UnreachableError, UsageError
from tfcanary.packaging import command, dist, registry, sbom, source
from tfcanary.packaging.programs import run
from tfcanary.packaging.registry import Access, Reference
from tfcanary.packaging.signatures import Signing, Trust
from tfcanary.packaging.verify import TITLE, VERSION, verify

LOCK = f"""numpy==2.3.1 ; python_full_version >= '3.12' \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
    # via keras
pytest==8.4.0 \\
    --hash=sha256:{"c" * 64}
"""


def changelog(folder: Path, *headings: str) -> Path:
    (folder / "CHANGELOG.md").write_text(
        "# Changelog\n\n" + "\n\n".join(f"## {line}" for line in headings) + "\n"
    )
    return folder


@pytest.mark.parametrize(
    ("headings", "got"),
    [
        (["[Unreleased]"], "expected [1.2.0] as the newest version, got no version"),
        (["[Unreleased]", "[1.1.0] - 2026-01-31"], "expected [1.2.0] as the newest version, got 1.1.0"),
        (
            ["[Unreleased]", "[1.3.0] - 2026-03-01", "[1.2.0] - 2026-01-31"],
            "as the newest version, got 1.3.0",
        ),
        (["[Unreleased]", "[1.2.0]"], "expected a date, as in `## [1.2.0] - 2026-01-31`, got none"),
    ],
)
def test_a_version_without_a_dated_section_is_refused(tmp_path: Path, headings: list[str], got: str) -> None:
    (problem,) = source.changelog_problems(changelog(tmp_path, *headings), "1.2.0", unreleased=False)

    assert got in problem


def test_a_version_with_the_newest_section_is_taken(tmp_path: Path) -> None:
    changelog(tmp_path, "[Unreleased]", "[1.2.0] - 2026-01-31", "[1.1.0] - 2025-12-24")

    assert [] == list(source.changelog_problems(tmp_path, "1.2.0", unreleased=False))


def test_a_rehearsal_needs_the_section_of_what_is_unreleased(tmp_path: Path) -> None:
    changelog(tmp_path, "[1.2.0] - 2026-01-31")

    (problem,) = source.changelog_problems(tmp_path, "1.2.0", unreleased=True)

    assert "expected [Unreleased] as the newest version, got 1.2.0" in problem
    assert [] == list(
        source.changelog_problems(changelog(tmp_path, "[Unreleased]"), "1.2.0", unreleased=True)
    )


def test_a_release_has_the_date_of_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changelog(tmp_path, "[Unreleased]", "[1.2.0] - 2026-01-31", "[1.1.0] - 2025-12-24")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    found = source.Source(tmp_path, "1.2.0", source.epoch(tmp_path, "1.2.0"))

    assert dt.datetime(2026, 1, 31, tzinfo=dt.UTC) == found.time


@pytest.mark.parametrize("given", ["yesterday", "-1", "1.5", "0"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)

    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH: expected seconds since 1970"):
        source.epoch(tmp_path, "1.2.0")


def test_the_time_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    assert 1700000000 == source.epoch(changelog(tmp_path, "[1.2.0] - 2026-01-31"), "1.2.0")


def test_where_there_is_no_checkout_nothing_is_packaged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a checkout, got no pyproject\.toml"):
        source.read(tmp_path, unreleased=True)


def test_locked_packages_have_their_hashes_and_their_scope() -> None:
    numpy, pytest_ = sbom.packages(LOCK, ["numpy"])

    assert ("numpy", "2.3.1", "pkg:pypi/numpy@2.3.1") == (numpy.name, numpy.version, str(numpy.purl))
    assert ["python_full_version >= '3.12'", "a" * 64, "b" * 64] == [part.value for part in numpy.properties]
    assert ("required", "optional") == (numpy.scope.value, pytest_.scope.value)


@pytest.mark.parametrize(
    ("lock", "lost"),
    [
        ("", "none"),
        (f"{LOCK}left-pad==1.0.0\n", "left-pad"),
        (LOCK.replace(f" \\\n    --hash=sha256:{'c' * 64}", ""), "pytest"),
    ],
)
def test_a_lock_that_is_not_understood_is_refused(lock: str, lost: str) -> None:
    with pytest.raises(DoesNotHoldError, match=f"expected a version and hashes of every package, got {lost}"):
        list(sbom.packages(lock, []))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "chart.tgz").write_bytes(b"chart")
    digest = hashlib.sha256(b"chart").hexdigest()
    (tmp_path / dist.SUMS).write_text(f"{digest}  chart.tgz\n")
    return tmp_path


def test_a_release_as_it_was_made_is_taken(release: Path) -> None:
    dist.require(release)


def test_a_file_that_changed_came_or_went_is_named(release: Path) -> None:
    (release / "chart.tgz").write_bytes(b"Chart")
    (release / "more.tgz").write_bytes(b"")
    changed, more = dist.problems(release)
    (release / "chart.tgz").unlink()
    gone, _ = dist.problems(release)

    assert changed.startswith("chart.tgz: expected sha256 ")
    assert "more.tgz: expected only the files of SHA256SUMS, got one more" == more
    assert "chart.tgz: expected by SHA256SUMS, got none" == gone
    with pytest.raises(DoesNotHoldError, match="`nox -s package` makes it again"):
        dist.require(release)


def test_a_folder_without_checksums_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a release, got no SHA256SUMS"):
        dist.require(tmp_path)


def test_a_program_that_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UnreachableError, match=r"^helm: expected it on PATH, got none; Helm 4 is built by"):
        run(["helm", "version"], wanted="helm: expected a version")


def test_the_end_of_what_a_program_said_is_its_reason() -> None:
    script = "echo progress >&2; echo 'Error: it is raining' >&2; exit 3"

    with pytest.raises(
        DoesNotHoldError, match=r"^weather: expected sun, got progress \| Error: it is raining$"
    ):
        run(["sh", "-c", script], wanted="weather: expected sun")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--keyring=keys.gpg"], "provenance: expected --keyring and --key-name, got one of them"),
        (["--key-name=Release"], "provenance: expected --keyring and --key-name, got one of them"),
        (["--keyring=none.gpg", "--key-name=Release"], "--keyring none.gpg: expected a file, got none"),
    ],
)
def test_half_a_signer_is_refused(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "read", lambda *_, **__: pytest.fail("it was packaged"))

    assert 2 == command.main(["package", *options])
    assert f"error: {problem}\n" == capsys.readouterr().err


DIGEST = f"sha256:{'0' * 63}1"


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("oci://ghcr.io/example/charts", "ghcr.io/example/charts", None, None),
        ("oci://localhost:5000/charts/resnet:0.1.0", "localhost:5000/charts/resnet", "0.1.0", None),
        (f"oci://127.0.0.1:5000/a/b_c/d.e@{DIGEST}", "127.0.0.1:5000/a/b_c/d.e", None, DIGEST),
        (f"oci://ghcr.io/charts:0.1.0_1@{DIGEST}", "ghcr.io/charts", "0.1.0_1", DIGEST),
    ],
)
def test_a_reference_is_read(text: str, repository: str, tag: str | None, digest: str | None) -> None:
    assert Reference(repository, tag, digest) == registry.reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "ghcr.io/example/charts",
        "oci://ghcr.io",
        "oci://user:password@ghcr.io/charts",
        "oci://ghcr.io/charts/",
        "oci://ghcr.io/Charts",
        "oci://ghcr.io/charts@sha256:0123",
        "oci://ghcr.io/charts --insecure",
        "oci://--insecure/charts",
        "oci://ghcr.io/charts\n",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected oci://REGISTRY/NAME"):
        registry.reference(text)


def test_a_digest_says_it_all() -> None:
    """
    Not every program takes a tag beside a digest.
    """
    place = registry.reference(f"oci://ghcr.io/charts:0.1.0@{DIGEST}")

    assert f"oci://ghcr.io/charts@{DIGEST}" == str(place)
    assert "ghcr.io/charts:0.1.0" == registry.reference("oci://ghcr.io/charts:0.1.0").plain


def test_a_registry_is_reached_by_the_environment(tmp_path: Path) -> None:
    for name in ("ca.crt", "config.json"):
        (tmp_path / name).touch()
    access = Access(tmp_path / "ca.crt", tmp_path / "config.json")
    access.require()

    assert {
        "SSL_CERT_FILE": f"{tmp_path}/ca.crt",
        "DOCKER_CONFIG": f"{tmp_path}",
        "HELM_REGISTRY_CONFIG": f"{tmp_path}/config.json",
    } == access.environment
    assert {} == Access().environment


def test_files_that_programs_would_not_find_are_refused(tmp_path: Path) -> None:
    (tmp_path / "login.json").touch()

    with pytest.raises(UsageError, match=r"--ca-file .*none\.crt: expected a file, got none"):
        Access(ca=tmp_path / "none.crt").require()
    with pytest.raises(UsageError, match=r"login\.json: expected a file named config\.json"):
        Access(credentials=tmp_path / "login.json").require()


def test_a_key_of_ones_own_asks_no_public_service() -> None:
    """
    Keyless is the other way: Sigstore's services vouch for an identity, and its log is part of what is verified.
    """
    assert "--tlog-upload=false" in Signing("release.key").options
    assert ["--yes"] == Signing().options
    assert ["--key", "release.pub", "--insecure-ignore-tlog"] == Trust("release.pub").options
    assert [
        "--certificate-identity=https://github.com/example/release.yaml",
        "--certificate-oidc-issuer=https://token.example",
    ] == Trust(None, "https://github.com/example/release.yaml", "https://token.example").options


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {TITLE: "resnet"},
        {TITLE: "../../etc/cron.d/x", VERSION: "0.1.0"},
        {TITLE: "resnet", VERSION: "0/../../x"},
        {TITLE: "--keyring", VERSION: "0.1.0"},
    ],
)
def test_what_has_no_chart_s_name_is_not_written_anywhere(
    annotations: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    The name comes from the registry, and nothing about it is verified yet.
    """
    monkeypatch.setattr(registry, "manifest", lambda *_: {"annotations": annotations})
    outcomes = verify(
        registry.reference(f"oci://ghcr.io/charts@{DIGEST}"),
        values=tmp_path,
        keyring=tmp_path,
        trust=Trust("release.pub"),
        access=Access(),
    )

    with pytest.raises(DoesNotHoldError, match=r"expected a chart with org\.opencontainers\.image\."):
        list(outcomes)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["publish", "ghcr.io/charts", "--key=k"], "expected oci://REGISTRY/NAME"),
        (["publish", "oci://ghcr.io/charts"], "one of the arguments --key --keyless is required"),
        (
            ["verify", "oci://ghcr.io/charts:0.1.0", "--key=k", "--keyring=r"],
            "expected a digest (@sha256:...), got none",
        ),
        (
            ["verify", f"oci://ghcr.io/charts@{DIGEST}", "--keyring=r"],
            "one of the arguments --key --identity is required",
        ),
    ],
)
def test_wrong_use_is_refused_before_a_registry_is_asked(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)

    assert problem in capsys.readouterr().err


def test_an_identity_needs_its_issuer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert 2 == command.main(
        ["verify", f"oci://ghcr.io/charts@{DIGEST}", "--identity=me", f"--keyring={tmp_path}"]
    )
    assert (
        "error: keyless signature: expected --identity and --issuer, got one of them\n"
        == capsys.readouterr().err
    )
