"""
A copy of this checkout that releases are made of, and the keys that they are signed with.
"""

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
# The version that a release made of this checkout has.
VERSION: str = _PROJECT["version"]

KEY_NAME = "Release Test <release@example.com>"
KEY_PASSWORD = "the-password-of-the-key"  # noqa: S105 - a key of these tests


@dataclass(frozen=True, slots=True)
class Said:
    """
    How a command ended.
    """

    code: int
    out: str
    error: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """
    A copy of the files of this checkout, committed or not, that packaging sees as its own.
    """

    root: Path

    def run(self, *arguments: str | Path, **variables: str) -> Said:
        """
        Run `python -m tfcanary.packaging`, which is all that the nox sessions do.
        """
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), **variables}
        done = subprocess.run(
            [sys.executable, "-m", "tfcanary.packaging", *map(str, arguments)],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def edit(self, name: str, old: str, new: str) -> None:
        """
        Replace a string of a file, which must have it once.
        """
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert 1 == text.count(old), name
        path.write_text(text.replace(old, new), encoding="utf-8")

    def git(self, *arguments: str) -> None:
        """
        Run git, as somebody.
        """
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True)

    def release(self) -> None:
        """
        Give the changes a version and a date, and commit: what is left to a person before `nox -s package`.
        """
        self.edit("CHANGELOG.md", "## [Unreleased]\n", f"## [Unreleased]\n\n## [{VERSION}] - 2026-01-31\n")
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", f"--message=Release {VERSION}")


@dataclass(frozen=True, slots=True)
class Keyrings:
    """
    A PGP key, as the files that helm reads.
    """

    secret: Path
    public: Path

    @property
    def options(self) -> tuple[str, ...]:
        """
        What `package` is given to make provenance.
        """
        return (f"--keyring={self.secret}", f"--key-name={KEY_NAME}")


def made_keyrings(folder: Path) -> Keyrings:
    """
    Make a PGP key as the release process page says, but without a passphrase.
    """
    gpg = ["gpg", f"--homedir={folder}", "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="]
    subprocess.run([*gpg, "--quick-generate-key", KEY_NAME, "rsa3072", "sign"], check=True)
    found = Keyrings(folder / "secret.gpg", folder / "public.gpg")
    subprocess.run([*gpg, f"--output={found.secret}", "--export-secret-keys"], check=True)
    subprocess.run([*gpg, f"--output={found.public}", "--export"], check=True)
    subprocess.run(["gpgconf", f"--homedir={folder}", "--kill", "all"], check=True)
    return found


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key pair of cosign's.
    """

    private: Path
    public: Path


def made_key(folder: Path) -> Key:
    """
    Make a key pair as the release process page says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["cosign", "generate-key-pair", "--output-key-prefix=release"],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "COSIGN_PASSWORD": KEY_PASSWORD},
    )
    return Key(folder / "release.key", folder / "release.pub")
