"""
Make any SavedModel servable by the chart's defaults: its manifest, and its warm-up records.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfcanary import cli
from tfcanary.export import manifest, savedmodel, servable

COMMANDS = ("manifest", "warmup")


def parser(prog: str) -> cli.Parser:
    """
    Describe the two commands that write into a model's folder.
    """
    result = cli.Parser(prog=prog, description=__doc__)
    commands = result.add_subparsers(dest="command", required=True)
    writing = commands.add_parser(
        "manifest",
        help=f"write {manifest.NAME} and {manifest.SUMS}, which the chart's pods check before they serve",
        epilog=cli.EXIT_CODES,
    )
    writing.set_defaults(action=_manifest)
    warming = commands.add_parser(
        "warmup",
        help="write the requests that a server replays before it calls the version available",
        epilog=cli.EXIT_CODES,
    )
    warming.set_defaults(action=_warmup)
    for command in (writing, warming):
        command.add_argument("model", type=Path, metavar="DIR", help="a version's directory")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    warming.add_argument(
        "--requests",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines, each the body of a REST prediction: signature_name, and instances or inputs",
    )
    return result


def main(argv: Sequence[str] | None = None, *, prog: str = "export_resnet.py") -> int:
    """
    Write what the command line says.
    """
    return cli.run(parser(prog), lambda arguments: arguments.action(arguments), argv)


def _manifest(arguments: argparse.Namespace) -> int:
    written = servable.write_manifest(arguments.model)
    notes = list(_notes(arguments.model))
    said = {"path": str(arguments.model), "manifest": written, "notes": notes}
    line = f"{arguments.model}: {manifest.NAME} and {manifest.SUMS} list {len(written['files'])} files"
    print(json.dumps(said, indent=2) if arguments.json else "\n".join([line, *notes]))  # noqa: T201 - the result
    return 0


def _warmup(arguments: argparse.Namespace) -> int:
    model = arguments.model.resolve()
    # The name that the version is served under is that of the folder around it.
    counts = servable.write_warmup(arguments.model, arguments.requests, model_name=model.parent.name)
    written = (model / manifest.NAME).is_file()
    said = {
        "path": str(arguments.model / savedmodel.WARMUP),
        "records": dict(sorted(counts.items())),
        "manifest": written,
    }
    shown = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
    after = "the manifest is written again" if written else "no manifest yet: `manifest DIR` writes it"
    line = f"{said['path']}: {counts.total()} records ({shown}); {after}"
    print(json.dumps(said, indent=2) if arguments.json else line)  # noqa: T201 - the result
    return 0


def _notes(model: Path) -> Iterator[str]:
    """
    Say what else a server needs to find and to warm up the version.
    """
    name = model.resolve().name
    if not name.isascii() or not name.isdigit() or name.startswith("0"):
        yield (
            f"note: the chart looks for a folder that is named by the version's number, and this one is {name!r}; "
            "rename it, or publish it with --version N"
        )
    if not (model / savedmodel.FILE).exists():
        yield "note: a TensorFlow Lite model alone is served with server.preferTflite=true"
    if not (model / savedmodel.WARMUP).is_file():
        yield "note: no warm-up records: the first request waits; `warmup DIR --requests FILE` writes them"
