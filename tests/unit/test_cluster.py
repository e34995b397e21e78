"""
The parts of the local cluster that need no cluster.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from tfcanary.cluster import (
    binaries,
    command,
    components,
    health,
    images,
    istio,
    lifecycle,
    node,
    pki,
    ports,
    preflight,
    store,
)
from tfcanary.cluster.layout import Layout, Ports, clusters_folder, existing
from tfcanary.cluster.processes import Process
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.locks import exclusive
from tfcanary.wait import NotYet, wait_until


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    State and caches of each test's own.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


HALF_ENDED = """
import ctypes, socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
def last():
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
    import os
    os._exit(0)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2) ends the first thread alone
"""


def test_a_process_whose_first_thread_has_ended_is_there() -> None:
    """
    It looks like a zombie and holds its port: a successor that starts now finds the address in use.
    """
    command = [sys.executable, "-c", HALF_ENDED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as half:
        assert half.stdin is not None
        assert half.stdout is not None
        port = int(half.stdout.readline())
        process = Process.of(half.pid)

        def first_thread_ended() -> None:
            state = Path(f"/proc/{half.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                raise NotYet(state)

        wait_until("the end of the first thread", first_thread_ended, timeout_seconds=10)
        assert process is not None
        assert process.alive
        socket.create_connection(("127.0.0.1", port)).close()

        half.stdin.close()
        half.wait()
        assert not process.alive


@pytest.mark.parametrize("name", ["", "Demo", "-a", "a-", "1a", "a b", "../x", "a" * 21])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(UsageError, match="--name: expected"):
        Layout(name)


def test_a_cluster_exists_once_its_ports_are_chosen() -> None:
    Layout("one").write_ports(Ports(api=1, gateway=2))

    assert [Layout("one")] == existing()
    assert Ports(api=1, gateway=2) == Layout("one").read_ports()
    assert Layout("two").read_ports() is None


def test_records_that_a_crash_emptied_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A file that was written right before the machine stopped is often there, with nothing in it.
    """
    layout = Layout("one")
    layout.state.mkdir(parents=True)
    layout.config.mkdir()
    for name in ("ports.json", "images.json", "istio.json"):
        (layout.state / name).touch()
    monkeypatch.setattr(istio, "_call", lambda *_: None)

    assert layout.read_ports() is None
    images.import_into(layout, [])
    istio.install(layout, Ports(1, 2), folders=dict.fromkeys(binaries.CLUSTER_TREES, Path()), pulled=False)

    assert "istiod" in (layout.state / "istio.json").read_text()


def test_a_second_cluster_takes_other_ports() -> None:
    """
    A cluster that is down keeps its ports: both can be up later.
    """
    first = ports.choose(Layout("one"), None, None)
    Layout("one").write_ports(first)

    second = ports.choose(Layout("two"), None, None)

    assert first == ports.choose(Layout("one"), None, None)
    assert not {first.api, first.gateway} & {second.api, second.gateway}


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(UsageError, match=f"--api-port: expected a free port on 127.0.0.1, got {port}"):
            ports.choose(Layout("one"), port, None)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(UsageError, match=f"--gateway-port: expected .*, got {port}"):
        ports.choose(Layout("one"), None, port)


def test_one_port_cannot_be_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The default of one leaves the other's port alone, and a port that is asked for twice is refused.
    """
    monkeypatch.setattr(ports, "_free", lambda _: True)

    assert Ports(18080, 18081) == ports.choose(Layout("one"), 18080, None)
    assert Ports(16444, 16443) == ports.choose(Layout("one"), None, 16443)
    with pytest.raises(UsageError, match=r"expected a free port on 127\.0\.0\.1, got 20000"):
        ports.choose(Layout("one"), 20000, 20000)


def test_a_cluster_that_came_up_meanwhile_has_its_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ports were free before the programs were built, which takes minutes, and must be when they are written.
    """

    def ensure(_: str) -> Path:
        Layout("two").write_ports(ports.choose(Layout("two"), None, None))
        return Path()

    def stop(*_: object) -> None:
        raise UnreachableError("far enough")

    monkeypatch.setattr(preflight, "prepare", lambda **_: None)
    monkeypatch.setattr(binaries, "ensure", ensure)
    monkeypatch.setattr(images, "ensure", lambda **_: [])
    monkeypatch.setattr(pki, "ensure", stop)

    with pytest.raises(UnreachableError, match="far enough"):
        lifecycle.up(Layout("one"))

    one, two = Layout("one").read_ports(), Layout("two").read_ports()
    assert one is not None
    assert two is not None
    assert not {one.api, one.gateway} & {two.api, two.gateway}


def test_a_port_other_than_the_cluster_has() -> None:
    Layout("one").write_ports(Ports(api=16443, gateway=18080))

    with pytest.raises(UsageError, match="--gateway-port: expected 18080"):
        ports.choose(Layout("one"), None, 18081)


def test_two_commands_do_not_change_one_cluster() -> None:
    layout = Layout("one")

    with (
        lifecycle._alone(layout),
        pytest.raises(UsageError, match="expected to be alone"),
        lifecycle._alone(layout),
    ):
        pytest.fail("both were let in")


def _has_open(file: Path, times: int) -> None:
    found = sum(link.is_symlink() and link.readlink() == file for link in Path("/proc/self/fd").iterdir())
    if found < times:
        raise NotYet(f"opened {found} times")


def test_a_lock_whose_file_was_removed_locks_nothing(tmp_path: Path) -> None:
    """
    `down` removes its lock's file. A command that had the file open and waited for it must not take it for the lock.
    """
    lock = tmp_path / "lock"
    entered: list[bool] = []

    def wait() -> None:
        with exclusive(lock):
            entered.append(lock.exists())

    waiting = threading.Thread(target=wait)
    with exclusive(lock):
        waiting.start()
        wait_until("the second", partial(_has_open, lock, 2), timeout_seconds=10)
        lock.unlink()
    waiting.join()

    assert [True] == entered


@pytest.mark.parametrize("arguments", [["status"], ["logs", "etcd"]])
def test_a_cluster_that_is_not_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == command.main([*arguments, "--name", "nowhere"])
    assert 1 == len(capsys.readouterr().err.splitlines())


def test_up_says_how_to_use_the_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A bare machine has neither kubectl nor helm on its PATH.
    """
    monkeypatch.setattr(lifecycle, "up", lambda *_, **__: Ports(api=1, gateway=2))
    monkeypatch.setattr(binaries, "ensure", Path("/cache").joinpath)

    assert 0 == command.main(["up"])

    said = capsys.readouterr().out.splitlines()[-1]
    assert f"export KUBECONFIG={Layout('demo').kubeconfig} PATH=/cache/tools:/cache/kubernetes:$PATH" in said


def test_down_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == command.main(["down", "--name", "nowhere"])
    assert "cluster nowhere: nothing to take down\n" == capsys.readouterr().out


def test_down_ends_what_another_down_began(capsys: pytest.CaptureFixture[str]) -> None:
    """
    A `down` that was killed in the middle had removed the ports, and left keys.
    """
    Layout("one").pki.mkdir(parents=True)
    (clusters_folder() / "No Cluster").mkdir()

    assert 0 == command.main(["down", "--all"])

    assert "cluster one is down\n" == capsys.readouterr().out
    assert not Layout("one").state.exists()
    assert (clusters_folder() / "No Cluster").exists()


def test_logs_reads_nothing_but_logs(capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout("one")
    layout.logs.mkdir(parents=True)
    (layout.logs / "etcd.log").write_text("".join(f"line {number}\n" for number in range(100)))
    (layout.state / "secret.log").write_text("secret")

    assert 0 == command.main(["logs", "etcd", "--lines", "2", "--name", "one"])
    assert "line 98\nline 99\n" == capsys.readouterr().out
    assert 2 == command.main(["logs", "../secret", "--name", "one"])
    assert "secret" not in capsys.readouterr().out


def test_the_state_may_lie_behind_a_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    With a home or a ~/.local on another disk, logs are found, and mounts too, which the kernel names without links.
    """
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "link"))
    layout = Layout("one")
    layout.logs.mkdir(parents=True)
    (layout.logs / "etcd.log").write_text("line\n")
    mount = layout.state.resolve() / "mount"
    monkeypatch.setattr(node, "MOUNTS", tmp_path / "mountinfo")
    node.MOUNTS.write_text(f"1 0 0:1 / {mount} rw - tmpfs tmpfs rw\n")

    assert 0 == command.main(["logs", "etcd", "--name", "one"])
    assert "line\n" == capsys.readouterr().out
    assert [mount] == node.mounts_below(layout.state)


def test_a_process_is_known_by_more_than_its_pid(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """
    A PID that was given to another process since is not taken for the one that was recorded.
    """
    process = Process.of(child.pid)
    assert process is not None
    process.write(tmp_path / "good.json")
    dataclasses.replace(process, started=process.started - 1).write(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")

    assert process == Process.read(tmp_path / "good.json")
    assert Process.read(tmp_path / "other.json") is None
    assert Process.read(tmp_path / "broken.json") is None
    assert Process.read(tmp_path / "none.json") is None


def test_a_process_that_ended_is_gone(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    process = Process.of(child.pid)
    assert process is not None
    process.write(tmp_path / "record.json")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not process.alive
    assert Process.read(tmp_path / "record.json") is None


def test_certificates() -> None:
    """
    Each is signed by the cluster's authority, names its holder, and is private; a second run changes none.
    """
    layout = Layout("one")
    pki.ensure(layout, 16443)
    authority = x509.load_pem_x509_certificate((layout.pki / "ca.crt").read_bytes())
    before = {path: path.read_bytes() for path in layout.pki.iterdir()}

    for name, identity in pki.identities(layout).items():
        certificate = x509.load_pem_x509_certificate((layout.pki / f"{name}.crt").read_bytes())
        certificate.verify_directly_issued_by(authority)
        assert f"CN={identity.user}" in certificate.subject.rfc4514_string()
        assert 0o600 == (layout.pki / f"{name}.key").stat().st_mode & 0o777
    assert 0o600 == layout.kubeconfig.stat().st_mode & 0o777
    config = yaml.safe_load(layout.kubeconfig.read_text())
    assert "https://127.0.0.1:16443" == config["clusters"][0]["cluster"]["server"]
    assert "insecure-skip-tls-verify" not in layout.kubeconfig.read_text()
    pki.ensure(layout, 16443)
    assert before == {path: path.read_bytes() for path in layout.pki.iterdir()}


def test_tls_is_verified_everywhere() -> None:
    """
    No component's command line or file turns verification or authorization off.
    """
    layout = Layout("one")
    programs = components.Programs(*(Path("/"),) * 5)
    built = components.build(layout, Ports(api=1, gateway=2), programs)

    configured = [" ".join([*one.arguments, *one.files.values()]) for one in built]

    assert 9 == len(configured)
    for text in configured:
        for word in ("insecure", "skip", "AlwaysAllow", "anonymous-auth=true"):
            assert word not in text


def test_a_clock_that_was_set_since_changes_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A machine that was suspended gets the right time at once. Pods that run in the node are still this node's.
    """
    layout = Layout("one")
    layout.run.mkdir(parents=True)
    (layout.run / node.RECORD).touch()
    os.utime(layout.run / node.RECORD, (1000, 1000))
    state = {"running": {"startedAt": "1970-01-01T00:16:45Z"}}
    pod = {"metadata": {"name": "a"}, "status": {"containerStatuses": [{"ready": True, "state": state}]}}
    monkeypatch.setattr(lifecycle, "_kubectl", lambda *_: json.dumps({"items": [pod]}))
    monkeypatch.setattr(lifecycle, "wait_until", lambda _, probe, **__: probe())
    monkeypatch.setattr(lifecycle, "network_of", lambda _: nullcontext())
    monkeypatch.setattr(health, "gateway_serves", lambda: None)
    first = Process.of(os.getpid())
    assert first is not None

    lifecycle._await_workloads(layout, Path("kubectl"), first)

    state["running"]["startedAt"] = "1970-01-01T00:16:35Z"
    with pytest.raises(NotYet, match="a is not ready in this node"):
        lifecycle._await_workloads(layout, Path("kubectl"), first)


def test_cgroups_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(node, "hierarchies", lambda: [tmp_path / "file"])

    with pytest.raises(
        UnreachableError, match=r"cgroup .*file/tfcanary-one: expected to make it, got .*machine"
    ):
        node.make_cgroups("tfcanary-one")


@pytest.mark.parametrize(
    ("point", "folder"),
    [
        pytest.param("/srv/with\\040blank/mount", "/srv/with blank", id="blank"),
        pytest.param("/home/jörg/mount", "/home/jörg", id="not-ascii"),
    ],
)
def test_mount_points_are_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str, folder: str
) -> None:
    """
    The kernel writes a blank in octal, and other characters as they are.
    """
    monkeypatch.setattr(node, "MOUNTS", tmp_path / "mountinfo")
    node.MOUNTS.write_text(
        f"1 0 0:1 / {point} rw - tmpfs tmpfs rw\n2 0 0:1 / /srv/other rw - tmpfs tmpfs rw\n"
    )

    assert [Path(folder) / "mount"] == node.mounts_below(Path(folder))


def test_a_version_is_published_once(tmp_path: Path) -> None:
    version = tmp_path / "exported/1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"one")

    target = store.publish(version, tmp_path / "store", "resnet")
    (version / "more").write_bytes(b"two")

    assert tmp_path / "store/resnet/1" == target
    assert target == store.publish(version, tmp_path / "store", "resnet")
    assert ["saved_model.pb"] == [path.name for path in target.iterdir()]


def test_a_namespace_needs_a_cluster() -> None:
    with pytest.raises(UsageError, match="cluster nowhere: expected one that was brought up"):
        store.prepare_namespace(Layout("nowhere"), "resnet")
