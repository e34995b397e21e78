"""
The init container's script, run on small models: it takes what an export writes, and refuses everything else.
"""

import subprocess

import pytest

from tfcanary.export import manifest


def write(model, **facts):
    """
    A small model with its manifest and sums, as an export writes them.
    """
    (model / "variables").mkdir(parents=True, exist_ok=True)
    contents = {"saved_model.pb": b"graph", "variables/variables.index": b"index", "a b.txt": b""}
    for path, data in contents.items():
        (model / path).write_bytes(data)
    nested = {"interface": {"sha256": "x", "fault": "y"}, "zoo": {"a": {"sha256": "0" * 64}}}
    manifest.write(model, {"arch": "resnet50", "fault": None, **nested, **facts})


@pytest.fixture
def verify(render, tmp_path):
    """
    Run the init container's script on a small model that was changed, and give its exit code and what it said.
    """
    pod = render("stable").all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    shell, options, script, name = pod["initContainers"][0]["command"]

    def run(change, faulty="refuse-faulty"):
        model = tmp_path / "store" / "1"
        if not model.exists():
            write(model)
        change(model)
        target = tmp_path / "models" / "resnet" / "1"
        command = [shell, options, script, name, str(model), str(target), faulty]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # The log of two streams may be in any order, and its last line is taken for the reason.
        assert not (done.returncode and done.stdout), done.stdout
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_container_that_starts_again_begins_anew(verify):
    """
    A model that is still being written is refused; when it is complete, nothing of the first copy stands in the way.
    """
    part = "variables/variables.tempstate"

    refused, _ = verify(lambda model: (model / part).write_text("x"))
    code, said = verify(lambda model: (model / part).unlink())

    assert refused != 0
    assert 0 == code, said


def flipped(model):
    """
    Flip one bit of the graph.
    """
    data = bytearray((model / "saved_model.pb").read_bytes())
    data[0] ^= 1
    (model / "saved_model.pb").write_bytes(data)


def test_a_model_that_is_whole_is_taken(verify, tmp_path):
    """
    Every file is there with its hash, and the last line has the digest that `manifest verify` gives as well.
    """
    code, said = verify(lambda _: None)

    assert 0 == code, said
    digest = manifest.sha256(tmp_path / "store" / "1" / manifest.SUMS)
    assert said.endswith(f": 4 files verified, sha256:{digest}\n")


def line(text):
    """
    Add a line to the sums.
    """

    def change(model):
        with (model / "manifest.sha256").open("a") as sums:
            sums.write(text + "\n")

    return change


def renamed(before, after):
    """
    Let the sums name another file.
    """

    def change(model):
        sums = model / "manifest.sha256"
        sums.write_text(sums.read_text().replace(f"  {before}\n", f"  {after}\n"))

    return change


def in_the_manifest(model):
    """
    Change one word of the manifest, which the sums hold as well.
    """
    path = model / "manifest.json"
    path.write_text(path.read_text().replace("resnet50", "resnet51"))


NO_SUMS = (
    "expected manifest.sha256 beside manifest.json, got none; write it with: tfcanary export manifest DIR; or serve the "
    "model unverified with modelStore.verifyManifest=false"
)
NO_MANIFEST = (
    "expected manifest.json in it, got none; write it with: tfcanary export manifest DIR; or serve the model unverified "
    "with modelStore.verifyManifest=false"
)
OTHER_FILES = "expected the files of manifest.sha256"
CHANGES = {
    "one-bit": (flipped, "the files are not those of manifest.sha256"),
    "missing": (lambda m: (m / "saved_model.pb").unlink(), OTHER_FILES),
    "more": (lambda m: (m / "saved_model.pbtxt").write_text("x"), OTHER_FILES),
    "more-sums": (lambda m: (m / "variables" / "manifest.sha256").write_text("x"), OTHER_FILES),
    "manifest": (in_the_manifest, "the files are not those of manifest.sha256"),
    "empty-manifest": (
        lambda m: (m / "manifest.json").write_text("{}"),
        "the files are not those of manifest.sha256",
    ),
    "no-manifest": (lambda m: (m / "manifest.json").unlink(), NO_MANIFEST),
    "no-sums": (
        lambda m: (m / "manifest.sha256").unlink(),
        NO_SUMS,
    ),
    "empty-sums": (lambda m: (m / "manifest.sha256").write_text(""), "lists no files"),
    "link": (lambda m: (m / "variables" / "link").symlink_to("/etc/passwd"), "got a link or a device"),
    "outside": (renamed("saved_model.pb", "../saved_model.pb"), OTHER_FILES),
    "absolute": (renamed("saved_model.pb", "/etc/passwd"), OTHER_FILES),
    "not-listed": (renamed("saved_model.pb", "manifest.json"), OTHER_FILES),
    "comment": (line("# a line that sha256sum skips"), OTHER_FILES),
    "nonsense": (line("a line that sha256sum warns of"), OTHER_FILES),
    "escaped": (line("\\" + "0" * 64 + "  a\\nb"), OTHER_FILES),
    "another-hash": (line("MD5 (saved_model.pb) = " + "0" * 32), OTHER_FILES),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_was_changed_is_refused(verify, name):
    """
    One flipped bit, a missing or an additional file, or a list that is no list, and the container fails: the pod never
    becomes Ready.
    """
    change, message = CHANGES[name]

    code, said = verify(change)

    assert code != 0
    assert message in said


def test_the_last_line_is_the_reason(verify):
    """
    What reads a pod's log for the reason takes its last line; sha256sum has lines of its own before.
    """
    _, said = verify(flipped)

    assert said.splitlines()[-1].startswith("error: model ")


@pytest.mark.parametrize(
    ("renamed_to", "above", "holds"),
    [
        pytest.param(("store/1", "store/00000001"), "store", "00000001 2", id="version-with-zeros"),
        pytest.param(("store", "elsewhere"), ".", "elsewhere models", id="store"),
    ],
)
def test_a_missing_folder_is_told_from_a_missing_manifest(verify, tmp_path, renamed_to, above, holds):
    """
    The nearest folder that exists is listed: the version has zeros before it, or the model has another name.
    """

    def move(model):
        (model.parent / "2").mkdir()
        (tmp_path / "models").mkdir()
        was, is_now = renamed_to
        (tmp_path / was).rename(tmp_path / is_now)

    code, said = verify(move)

    assert code != 0
    assert (
        f"error: model {tmp_path}/store/1: expected this folder in the store, got none; "
        f"{tmp_path / above} holds: {holds}; put the version there" in said
    )
    assert "manifest" not in said


def faulty(model):
    """
    Export the model as one that was made faulty on purpose, as export_resnet.py --fault does.
    """
    write(model, fault="slow=20")


def test_a_model_that_is_faulty_on_purpose_is_refused(verify):
    """
    A model for drills never starts where it is not allowed: its manifest says which fault it has.
    """
    code, said = verify(faulty)

    assert code != 0
    assert 'made faulty on purpose, "slow=20"; for a drill set modelStore.allowFaulty' in said


def test_a_drill_may_have_a_faulty_model(verify):
    """
    Where it is allowed, a faulty model is verified like any other.
    """
    code, said = verify(faulty, "allow-faulty")

    assert 0 == code, said
    assert "4 files verified" in said
