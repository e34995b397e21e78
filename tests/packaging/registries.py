"""
An OCI registry of the tests' own: the CNCF's `registry`, with TLS and passwords, on a free port of this machine or of a local
cluster's node.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt

from tfcanary.wait import NotYet, wait_until

USER, PASSWORD = "release", "the-password-of-the-tests"


@dataclass(frozen=True, slots=True)
class Registry:
    """
    A registry that runs, and how it is reached.

    Attributes:
        ca: the authority of its certificate.
        credentials: what `helm registry login` wrote.
        storage: its files.
    """

    address: str
    ca: Path
    credentials: Path
    storage: Path

    @property
    def options(self) -> tuple[str, ...]:
        """
        What `publish` and `verify` are given.
        """
        return (f"--ca-file={self.ca}", f"--registry-config={self.credentials}")

    @property
    def environment(self) -> dict[str, str]:
        """
        What programs need that speak to it by themselves.
        """
        return {
            **os.environ,
            "SSL_CERT_FILE": str(self.ca),
            "DOCKER_CONFIG": str(self.credentials.parent),
            "HELM_REGISTRY_CONFIG": str(self.credentials),
        }

    def run(self, *command: str | Path, **variables: str) -> str:
        """
        Run a program against the registry.
        """
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment | variables,
            check=False,
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    def blob(self, digest: str) -> Path:
        """
        Where the registry keeps a blob.
        """
        value = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"

    @property
    def log(self) -> str:
        """
        What it logged, with a line for each request.
        """
        return (self.storage.parent / "registry.log").read_text()

    def files(self) -> dict[Path, bytes]:
        """
        Every blob, tag and link that the registry has. An upload that was not finished is none of them.
        """
        return {
            path.relative_to(self.storage): path.read_bytes()
            for path in self.storage.rglob("*")
            if path.is_file() and "_uploads" not in path.parts
        }


@contextmanager
def running(
    folder: Path, identity: Callable[..., Any], *, host: str = "localhost", prefix: Sequence[str] = ()
) -> Iterator[Registry]:
    """
    Run a registry while the body runs, with its files in a folder.

    Args:
        folder: where its files are.
        identity: makes its certificate.
        host: the name or address that it is reached by.
        prefix: the program and arguments that run programs where that address is, in a node for example.
    """
    authority = identity("authority")
    key, certificate = identity(host, authority).pems
    for name, content in (("key.pem", key), ("certificate.pem", certificate), ("ca.pem", authority.pems[1])):
        (folder / name).write_text(content)
    (folder / "htpasswd").write_text(
        f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
    )
    configuration, said = folder / "registry.yaml", folder / "registry.log"
    configuration.write_text(_configuration(folder, host))
    with (
        said.open("w") as log,
        subprocess.Popen([*prefix, "registry", "serve", configuration], stdout=log, stderr=log) as process,
    ):
        try:
            address = f"{host}:{_port(process, said)}"
            registry = Registry(
                address, folder / "ca.pem", folder / "login" / "config.json", folder / "storage"
            )
            _login(registry, prefix)
            yield registry
        finally:
            process.terminate()


def _configuration(folder: Path, host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    # Every request is a line of the log: who asked for what.
    return f"""version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/storage}}, delete: {{enabled: true}}}}
http: {{addr: {address}:0, tls: {{certificate: {folder}/certificate.pem, key: {folder}/key.pem}}}}
auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}
"""


def _port(process: subprocess.Popen[bytes], said: Path) -> int:
    def listening() -> int:
        assert process.poll() is None, said.read_text()
        found = re.search(r"listening on [\d.]+:(\d+)", said.read_text())
        if not found:
            raise NotYet(said.read_text()[-300:])
        return int(found[1])

    return wait_until("registry", listening, timeout_seconds=60, interval_seconds=0.05)


def _login(registry: Registry, prefix: Sequence[str]) -> None:
    """
    As the release process page says: the password is an argument of no program.
    """
    registry.credentials.parent.mkdir(exist_ok=True)
    command = [
        *prefix,
        "helm",
        "registry",
        "login",
        registry.address,
        f"--username={USER}",
        "--password-stdin",
    ]
    subprocess.run(
        command, input=PASSWORD, text=True, check=True, capture_output=True, env=registry.environment
    )
