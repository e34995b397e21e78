"""
The script in an offline kit: it brings the kit to a real registry, with TLS and passwords, by real helm.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundling import export
from kits import Kit, Made, flip, unpacked
from registries import PASSWORD, Registry, running
from releasing import VERSION, Said


@pytest.fixture
def kit(made: Made, tmp_path: Path) -> Kit:
    return unpacked(made.archive, tmp_path / "unpacked")


@pytest.fixture
def site(identity: Callable[..., Any], tmp_path: Path) -> Iterator[Registry]:
    """
    The registry that the kit is brought to.
    """
    (tmp_path / "site").mkdir()
    with running(tmp_path / "site", identity) as found:
        yield found


def installed(kit: Kit, site: Registry, *more: str | Path, **variables: str) -> Said:
    return kit.install(f"--registry={site.address}/ml", *site.options, *more, **variables)


def test_it_is_brought_to_a_registry_by_digest(made: Made, kit: Kit, site: Registry, tmp_path: Path) -> None:
    """
    Images and models have the digests that they had, and models are verified there by the key that signed them.
    """
    said = installed(kit, site, "--pull-secret=registry-credentials", f"--output={tmp_path}/env.yaml")

    assert 0 == said.code, said.error
    digests = {
        key: digest for (kind, key), (_, digest, *_) in kit.contents.items() if kind in ("image", "model")
    }
    base = f"{site.address}/ml"
    for (kind, _), (path, digest, *_) in kit.contents.items():
        if kind == "image":
            site.run("crane", "validate", f"--remote={base}/{path}@{digest}")
    verified = export(
        "verify", f"oci://{base}/models/resnet@{digests['resnet']}", f"--key={made.key.public}", *site.options
    )
    assert 0 == verified.code, verified.error
    assert {
        "image": {"repository": f"{base}/tensorflow/serving", "digest": digests["image"]},
        "modelStore": {"image": {"reference": f"{base}/models/resnet@{digests['resnet']}"}},
        "pods": {"imagePullSecrets": ["registry-credentials"]},
        "helmTest": {
            "image": {"repository": f"{base}/tensorflow/tensorflow", "digest": digests["helmTest.image"]}
        },
        "rollout": {"image": {"repository": f"{base}/tfcanary/rollout", "digest": digests["rollout.image"]}},
    } == yaml.safe_load((tmp_path / "env.yaml").read_text())


def test_charts_in_the_registry_have_their_provenance(
    made: Made, kit: Kit, site: Registry, tmp_path: Path
) -> None:
    said = installed(kit, site, f"--output={tmp_path}/env.yaml")

    assert 0 == said.code, said.error
    for chart in ("tfserving-canary", "tfserving-gateway"):
        place = f"oci://{site.address}/ml/charts/{chart}"
        pull = ("helm", "pull", place, f"--version={VERSION}", "--verify", f"--keyring={made.keyring.public}")
        site.run(*pull, f"--destination={tmp_path}")


def test_the_line_that_is_printed_renders_the_chart(kit: Kit, site: Registry, tmp_path: Path) -> None:
    """
    As it is typed, but for what it does: there is no cluster here, tests/cluster/test_kit.py has one.
    """
    said = installed(kit, site, f"--output={tmp_path}/env.yaml", "--", "--set=gateway.hosts={a b.test}")
    assert 0 == said.code, said.error
    typed = shlex.split(said.out)
    assert ["helm", "upgrade", "--install", "RELEASE"] == typed[:4]
    assert "--set=gateway.hosts={a b.test}" in typed

    typed[typed.index("--set=gateway.hosts={a b.test}")] = "--set=gateway.hosts={ab.test}"
    rendered = site.run("helm", "template", "resnet", *typed[4:], "--kube-version=1.35.0")

    assert f"image: {site.address}/ml/tensorflow/serving@sha256:" in rendered.replace('"', "")
    assert f"reference: {site.address}/ml/models/resnet@sha256:" in rendered.replace('"', "")


def test_the_same_again_changes_nothing(kit: Kit, site: Registry) -> None:
    assert 0 == installed(kit, site).code
    before = site.files()

    said = installed(kit, site)

    assert 0 == said.code, said.error
    assert "pushing" not in said.error
    assert before == site.files()


def tags(site: Registry) -> dict[Path, bytes]:
    """
    What each tag stands for.
    """
    return {path: content for path, content in site.files().items() if path.parent.name == "current"}


@pytest.mark.parametrize("name", ["models/resnet", "charts/tfserving-canary", "tensorflow/serving"])
def test_what_an_interrupted_run_left_out_is_added(kit: Kit, site: Registry, name: str) -> None:
    assert 0 == installed(kit, site).code
    before = tags(site)
    shutil.rmtree(site.storage / "docker/registry/v2/repositories/ml" / name)

    said = installed(kit, site)

    assert 0 == said.code, said.error
    assert f"pushing {site.address}/ml/{name}:" in said.error
    assert before == tags(site)


@pytest.mark.parametrize(
    "name",
    [
        "values/stable.yaml",
        f"charts/tfserving-canary-{VERSION}.tgz",
        "contents.tsv",
        "bin/*",
        "blobs/sha256/*",
    ],
)
def test_a_file_that_was_tampered_with_is_refused_by_name(kit: Kit, site: Registry, name: str) -> None:
    path = max(kit.folder.glob(name), key=lambda path: path.stat().st_size)
    flip(path)

    said = installed(kit, site)

    named = path.relative_to(kit.folder).as_posix()
    assert 1 == said.code, said.error
    wanted = f"error: {named}: expected its sha256 in SHA256SUMS, got FAILED; unpack the kit again"
    assert wanted == said.error.splitlines()[-1]
    assert {} == site.files()


def test_a_file_that_is_missing_is_refused_by_name(kit: Kit, site: Registry) -> None:
    (kit.folder / "values/env/air-gapped.yaml").unlink()

    said = installed(kit, site)

    assert 1 == said.code
    assert (
        "error: values/env/air-gapped.yaml: expected its sha256 in SHA256SUMS, got FAILED open" in said.error
    )
    assert {} == site.files()


def test_another_chart_of_the_same_version_is_not_replaced(kit: Kit, site: Registry, tmp_path: Path) -> None:
    chart = tmp_path / "tfserving-canary"
    chart.mkdir()
    (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: tfserving-canary\nversion: {VERSION}\n")
    site.run("helm", "package", chart, f"--destination={tmp_path}")
    site.run("helm", "push", tmp_path / f"tfserving-canary-{VERSION}.tgz", f"oci://{site.address}/ml/charts")

    said = installed(kit, site)

    assert 1 == said.code
    place = f"{site.address}/ml/charts/tfserving-canary:{VERSION}"
    assert f"error: {place}: expected no other content under this version, got sha256:" in said.error


def test_a_file_of_somebody_else_is_not_overwritten(kit: Kit, site: Registry, tmp_path: Path) -> None:
    mine = tmp_path / "env.yaml"
    mine.write_text("image: {}\n")

    said = installed(kit, site, f"--output={mine}")

    assert 2 == said.code
    assert (
        f"error: --output {mine}: expected a file that this script wrote, or none, got another" in said.error
    )
    assert "image: {}\n" == mine.read_text()


def test_models_are_unpacked_for_a_claim(made: Made, kit: Kit, site: Registry, tmp_path: Path) -> None:
    """
    A version that is there stays: pods may be serving it.
    """
    claim = tmp_path / "claim"
    (claim / "resnet/2").mkdir(parents=True)
    options = (f"--models-to={claim}", "--claim=models", f"--output={tmp_path}/env.yaml")

    said = installed(kit, site, *options)

    assert 0 == said.code, said.error
    exported = made.registry.storage.parent / "models/resnet/1"
    for path in exported.rglob("*"):
        there = claim / "resnet/1" / path.relative_to(exported)
        assert path.is_dir() or path.read_bytes() == there.read_bytes()
    assert [] == list((claim / "resnet/2").iterdir())
    assert {
        "image": {"reference": ""},
        "persistentVolumeClaim": {"claimName": "models"},
    } == yaml.safe_load((tmp_path / "env.yaml").read_text())["modelStore"]


def test_without_helm_it_says_so(kit: Kit, site: Registry, tmp_path: Path) -> None:
    """
    All else that it needs is part of a minimal system.
    """
    for name in (
        "sh",
        "sha256sum",
        "tar",
        "sed",
        "grep",
        "cut",
        "tr",
        "head",
        "tail",
        "wc",
        "date",
        "dirname",
        "mktemp",
        "rm",
        "uname",
    ):
        (tmp_path / "minimal").mkdir(exist_ok=True)
        (tmp_path / "minimal" / name).symlink_to(str(shutil.which(name)))

    said = installed(kit, site, PATH=str(tmp_path / "minimal"))

    assert 3 == said.code
    assert said.error.splitlines()[-1].startswith("error: helm: expected it on PATH, got none; ")


def test_a_cluster_that_does_not_answer_is_said_in_one_line(kit: Kit, site: Registry, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "none", "cluster": {"server": "https://localhost:1"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
    kubeconfig.write_text(
        yaml.safe_dump({"clusters": [cluster], "contexts": [context], "current-context": "none"})
    )

    said = installed(kit, site, "--release=resnet", KUBECONFIG=str(kubeconfig))

    assert 3 == said.code
    wanted = "error: release resnet: expected the cluster to answer, got "
    assert said.error.splitlines()[-1].startswith(wanted)


def test_a_registry_whose_certificate_is_not_trusted_gets_nothing(kit: Kit, site: Registry) -> None:
    said = kit.install(f"--registry={site.address}", f"--registry-config={site.credentials}")

    assert 3 == said.code
    errors = [line for line in said.error.splitlines() if line.startswith("error: ")]
    assert [said.error.splitlines()[-1]] == errors
    assert "certificate signed by unknown authority" in errors[0]
    assert {} == site.files()


def test_a_wrong_password_is_said_in_one_line(kit: Kit, site: Registry, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger" / "config.json"
    stranger.parent.mkdir()
    stranger.write_text(json.dumps({"auths": {site.address: {"auth": "cmVsZWFzZTp3cm9uZw=="}}}))

    said = kit.install(f"--registry={site.address}", f"--ca-file={site.ca}", f"--registry-config={stranger}")

    assert 3 == said.code
    errors = [line for line in said.error.splitlines() if line.startswith("error: ")]
    assert [said.error.splitlines()[-1]] == errors
    assert "UNAUTHORIZED" in errors[0]
    assert {} == site.files()


def test_a_registry_that_does_not_answer_is_said_in_one_line(kit: Kit) -> None:
    said = kit.install("--registry=localhost:1")

    assert 3 == said.code
    assert said.error.splitlines()[-1].startswith("error: localhost:1/")
    assert "connection refused" in said.error.splitlines()[-1]


def test_no_program_is_given_a_secret(kit: Kit, site: Registry, tmp_path: Path) -> None:
    """
    Every user of a machine can list the arguments of its programs.
    """
    (crane,) = (kit.folder / "bin").iterdir()
    seen, programs, real = tmp_path / "seen", tmp_path / "programs", tmp_path / "crane"
    crane.rename(real)
    programs.mkdir()
    for name, path in (("helm", shutil.which("helm")), ("crane", real)):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {seen}\nexec {path} "$@"\n')
        (programs / name).chmod(0o755)
    sums = kit.folder / "SHA256SUMS"
    sums.write_text(
        "".join(line for line in sums.read_text().splitlines(keepends=True) if " bin/" not in line)
    )

    said = installed(kit, site, PATH=f"{programs}:{os.environ['PATH']}")

    assert 0 == said.code, said.error
    listed = seen.read_text()
    assert {"helm", "crane"} == {line.split()[0] for line in listed.splitlines()}
    assert PASSWORD not in listed


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "--registry: expected HOST or HOST/PATH, got none"),
        (("--registry",), "--registry: expected a value, got none"),
        (("--registry=oci://a/b",), "--registry oci://a/b: expected HOST[:PORT][/PATH] in lower case"),
        (("--registry=a.example", "--replicas=2"), "--replicas: expected an option of install.sh"),
        (("--registry=a.example", "resnet"), "resnet: expected an option"),
        (("--registry=a.example", "--ca-file=none.pem"), "--ca-file none.pem: expected a file, got none"),
        (("--registry=a.example", "--strategy=all"), "--strategy all: expected a file of"),
        (("--registry=a.example", "--model=bert"), "--model bert: expected one of resnet"),
        (("--registry=a.example", '--claim=a"b'), '--claim a"b: expected a name of Kubernetes'),
    ],
)
def test_wrong_use_is_refused_before_anything(kit: Kit, options: tuple[str, ...], problem: str) -> None:
    said = kit.install(*options)

    assert 2 == said.code, said.error
    assert said.error.startswith(f"error: {problem}")
    assert 1 == len(said.error.splitlines())
