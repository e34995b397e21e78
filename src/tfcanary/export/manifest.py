"""
The manifest of an exported model: what it is, its interface, and a sha256 of every file.

Beside it lie the same hashes in the format of ``sha256sum --check``, which the chart's init container runs. Only the
standard library is used: ``python -m tfcanary.export.manifest verify DIR`` needs no TensorFlow.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tfcanary import cli
from tfcanary.errors import DoesNotHoldError, UsageError

NAME = "manifest.json"
SUMS = "manifest.sha256"


def sha256(path: Path) -> str:
    """
    Hash one file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(directory: Path) -> dict[str, dict[str, Any]]:
    """
    List every file below `directory`, except the manifest and its sums, with its size and hash.
    """
    return {
        path.relative_to(directory).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path not in {directory / NAME, directory / SUMS}
    }


def write(directory: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """
    Write the manifest of `directory` and its sums: `facts`, and the files as they are now.
    """
    manifest = {**facts, "files": files(directory)}
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")
    (directory / SUMS).write_text(_sums(directory), encoding="utf-8")
    return manifest


def _sums(directory: Path) -> str:
    """
    Give the hashes of the manifest and of the files that it lists, as `sha256sum --check` reads them.
    """
    hashes = {**_listed(directory), NAME: sha256(directory / NAME)}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))


def problems(directory: Path) -> Iterator[str]:
    """
    Say of each file how it differs from the manifest, and of the sums how they do; nothing if all agree.

    Raises:
        UsageError: there is no manifest, or it is malformed, or something cannot be read.
    """
    yield from _file_problems(directory)
    path = directory / SUMS
    if path.is_symlink() or (path.exists() and not path.is_file()):
        yield f"{SUMS}: expected a file, got a link or a device"
    # A model that was exported by an earlier release has none.
    elif path.exists() and path.read_bytes() != _sums(directory).encode():
        yield f"{SUMS}: expected the hashes of {NAME}, got others"


def _file_problems(directory: Path) -> Iterator[str]:
    listed = _listed(directory)
    # A link may point to anything, today to this file and tomorrow to another.
    found = {
        path.relative_to(directory).as_posix(): path
        for path in _below(directory)
        if path not in {directory / NAME, directory / SUMS} and (path.is_symlink() or not path.is_dir())
    }
    for name in sorted(listed.keys() | found.keys()):
        path = found.get(name)
        if path is None:
            yield f"{name}: expected by {NAME}, got none"
        elif name not in listed:
            yield f"{name}: expected only the files of {NAME}, got one more"
        elif path.is_symlink() or not path.is_file():
            yield f"{name}: expected a file, got a link or a device"
        else:
            try:
                got = sha256(path)
            except OSError as error:
                _unreadable(error)
            if got != listed[name]:
                yield f"{name}: expected sha256 {listed[name]}, got {got}"


def _below(directory: Path) -> Iterator[Path]:
    """
    Give everything below a directory; one that cannot be listed may hold anything, and is an error.
    """
    for folder, folders, names in os.walk(directory, onerror=_unreadable):
        yield from (Path(folder, name) for name in (*folders, *names))


def _unreadable(error: OSError) -> NoReturn:
    raise UsageError(
        f"{error.filename}: cannot read it: {error.strerror}; it is read as the user that runs this"
    ) from error


def _listed(directory: Path) -> dict[str, str]:
    path = directory / NAME
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        result = {str(name): str(entry["sha256"]) for name, entry in listed.items()}
    except OSError as error:
        raise UsageError(
            f"{path}: cannot read it: {error.strerror}; `tfcanary export manifest {path.parent}` writes it"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: expected a list of files with their sha256, got {error!r}") from error
    if not result:
        raise UsageError(f"{path}: expected at least one file, got none")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """
    Verify a model's files before they are served, or write the sums of a model that has none.
    """
    parser = cli.Parser(prog="python -m tfcanary.export.manifest", description=__doc__)
    parser.add_argument(
        "command",
        choices=["verify", "sums"],
        help=f"verify: compare every file with the manifest; sums: do so, and write {SUMS}",
    )
    parser.add_argument(
        "model", type=Path, metavar="DIR", help="a version's directory, with its manifest.json"
    )
    return cli.run(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    model = arguments.model
    writes = arguments.command == "sums"
    if lines := list(_file_problems(model) if writes else problems(model)):
        more = f"; and {len(lines) - 1} more" if len(lines) > 1 else ""
        raise DoesNotHoldError(f"model {model}: {lines[0]}{more}")
    if writes:
        (model / SUMS).write_text(_sums(model), encoding="utf-8")
    # The digest of the sums is that of the model: it covers each file's name and content, and the manifest.
    digest = hashlib.sha256(_sums(model).encode()).hexdigest()
    print(f"model {model}: {len(_listed(model))} files verified, sha256:{digest}")  # noqa: T201 - the result
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
