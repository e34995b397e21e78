"""
Judge a canary without a cluster: from a file of requests, from a log, or before anything starts.
"""

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.errors import NoEvidenceError, UsageError
from tfcanary.judge.feed import CANARY, STABLE, Feed
from tfcanary.judge.log import Log
from tfcanary.judge.outlook import Forecast, forecasts
from tfcanary.judge.plan import PROVABLE, SHARES, Plan
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.ruling import Action, Ruling
from tfcanary.judge.terms import Terms, Tolerance
from tfcanary.report.table import Row, Table, write
from tfcanary.report.verdict import verdict_page
from tfcanary.traffic.rows import Reader

EXPLAIN_SCHEMA, RULING_SCHEMA = "tfserving-canary/judge-explain/1", "tfserving-canary/judge/1"
MARKS = {Action.PROMOTE: "held", Action.ROLLBACK: "failed"}
_EXIT_CODES = {Action.PROMOTE: 0, Action.ROLLBACK: 1}
_EPILOG = (
    "exit codes: 0 promote · 1 roll back · 2 wrong use, or a file that is refused · 4 wait or inconclusive"
)
_MOST_LOG = 1 << 28

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, *, prog: str) -> int:
    """
    Run the part that the first argument names.
    """
    parts = {"explain": _explain_parser, "replay": _replay_parser, "records": _records_parser}
    given = sys.argv[1:] if argv is None else list(argv)
    top = cli.Parser(
        prog=prog,
        usage=f"{prog} {{explain,replay,records}} [ARGUMENTS]",
        description="Judge a canary without a cluster. `explain` says what a verdict will take, `records` gives one from a "
        "file of requests, `replay` gives it again from its log.",
        epilog=_EPILOG,
    )
    top.add_argument("part", choices=parts, metavar="PART", help=f"`{prog} PART --help` says more")
    part = top.parse_args(given[:1]).part
    parser, command = parts[part](f"{prog} {part}")
    return cli.run(parser, command, given[1:])


Command = Callable[[argparse.Namespace], int]


def _explain_parser(prog: str) -> tuple[cli.Parser, Command]:
    parser = cli.Parser(
        prog=prog, description="Say what a verdict will take, before anything starts.", epilog=_EPILOG
    )
    parser.add_argument(
        "--per-second",
        type=_positive,
        required=True,
        metavar="RPS",
        help="requests a second to both tracks together",
    )
    parser.add_argument(
        "--base",
        type=_per_cent,
        default=0.1,
        metavar="PERCENT",
        help="stable's failure rate (default: %(default)g)",
    )
    parser.add_argument(
        "--weight",
        type=_per_cent,
        action="append",
        metavar="PERCENT",
        help="a weight of the canary; may be repeated (default: 1, 5, 25 and 50)",
    )
    parser.add_argument(
        "--reaction",
        type=_positive,
        default=5.0,
        metavar="SECONDS",
        help="from a bad answer until the weight is 0 again (default: %(default)g)",
    )
    _add_terms(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser, _explain


def _replay_parser(prog: str) -> tuple[cli.Parser, Command]:
    parser = cli.Parser(
        prog=prog, description="Judge a log again; a log that was changed is refused.", epilog=_EPILOG
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="what `judge records --log` or a rollout wrote")
    parser.add_argument(
        "--digest",
        metavar="HEX",
        help="what the last line's digest must be, kept elsewhere; it finds a log that was cut",
    )
    _add_outputs(parser)
    return parser, _replay


def _records_parser(prog: str) -> tuple[cli.Parser, Command]:
    parser = cli.Parser(
        prog=prog,
        description="Judge a file of requests: CSV with a head, or a JSON object on each line (.jsonl). Columns: time and "
        "latency in seconds, track, weight in per cent or revision, status (HTTP) or code (gRPC), and if known user, cohort, "
        "answer (the most likely class), fault, pair (the same input sent to both tracks), label.",
        epilog=_EPILOG,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the requests")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="PERCENT",
        help="the canary's weight where the file has none, or REVISION=PERCENT for one route revision; may be repeated",
    )
    parser.add_argument(
        "--canary", default=CANARY, metavar="NAME", help="the file's name of it (default: %(default)s)"
    )
    parser.add_argument(
        "--stable", default=STABLE, metavar="NAME", help="the file's name of it (default: %(default)s)"
    )
    parser.add_argument(
        "--slow",
        type=_positive,
        default=1.0,
        metavar="SECONDS",
        help="the limit of latency (default: %(default)g)",
    )
    parser.add_argument(
        "--signal",
        action="append",
        choices=SHARES,
        help="what may roll back; may be repeated (default: errors and slow)",
    )
    parser.add_argument(
        "--require",
        action="append",
        choices=PROVABLE,
        help="what must be proven before a promotion; may be repeated (default: errors)",
    )
    parser.add_argument(
        "--sticky", action="store_true", help="a route sends each user always to the same track: count users"
    )
    parser.add_argument(
        "--top",
        type=_share_of_100,
        default=0.0,
        metavar="PERCENT",
        help="promote from this weight on (default: any)",
    )
    _add_terms(parser)
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="write every look and ruling, for `judge replay`"
    )
    _add_outputs(parser)
    return parser, _records


def _add_terms(parser: cli.Parser) -> None:
    terms = Terms()
    parser.add_argument(
        "--alpha",
        type=float,
        default=terms.alpha,
        help="probability of a false rollback (default: %(default)g)",
    )
    parser.add_argument(
        "--beta",
        type=float,
        default=terms.beta,
        help="probability of a false promotion (default: %(default)g)",
    )
    parser.add_argument(
        "--times",
        type=float,
        default=terms.errors.times,
        help="tolerated: less than so many times stable's failures (default: %(default)g)",
    )
    parser.add_argument(
        "--points",
        type=float,
        default=100 * terms.errors.points,
        help="or less than so many percentage points more, whichever is larger (default: %(default)g)",
    )
    parser.add_argument(
        "--horizon",
        type=_positive,
        default=4.0,
        metavar="HOURS",
        help="give up after so long (default: %(default)g)",
    )


def _add_outputs(parser: cli.Parser) -> None:
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write one HTML page that loads nothing else"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def _terms(arguments: argparse.Namespace) -> Terms:
    tolerance = Tolerance(arguments.times, arguments.points / 100)
    return Terms(alpha=arguments.alpha, beta=arguments.beta, errors=tolerance, slow=tolerance)


def _explain(arguments: argparse.Namespace) -> int:
    plan = Plan(terms=_terms(arguments), horizon=3600 * arguments.horizon)
    weights = arguments.weight or Ramp().ladder
    first = Ramp().first_weight(arguments.per_second, arguments.reaction)
    found = forecasts(plan, stable=arguments.base / 100, weights=weights, per_second=arguments.per_second)
    if arguments.json:
        made = {
            "schema": EXPLAIN_SCHEMA,
            "perSecond": arguments.per_second,
            "firstWeight": first,
            "forecasts": [_forecast_json(one) for one in found],
        }
        sys.stdout.write(json.dumps(made, indent=2, allow_nan=False) + "\n")
    else:
        write(_forecast_table(arguments, found, first), sys.stdout)
    return 0


def _forecast_json(one: Forecast) -> dict[str, Any]:
    return {
        "canary": one.canary,
        "stable": one.stable,
        "weight": one.weight,
        "medianRequests": _finite(one.median),
        "requests95": _finite(one.most),
        "seconds95": _finite(one.seconds),
        "badAnswers": round(one.bad, 1),
        "decided": one.decided,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _forecast_table(arguments: argparse.Namespace, found: Iterable[Forecast], first: float | None) -> Table:
    rows = []
    for one in found:
        equal = one.canary == one.stable
        rows.append(
            Row(
                (
                    "decided" if one.decided else "too slow",
                    f"{one.weight:g} %",
                    "equal, proven" if equal else f"{100 * one.canary:g} % fail, rolled back",
                    _count(one.median),
                    _count(one.most),
                    _time(one.seconds),
                    "" if equal else f"{one.bad:.0f}",
                ),
                mark="held" if one.decided else "open",
            )
        )
    harm = (
        f"the ramp begins at {first:g} %"
        if first
        else "no weight of the ramp keeps a dead canary below 10 bad answers; probe it at weight 0, or react sooner"
    )
    return Table(
        ("within the horizon", "weight", "canary", "requests, median", "95 %", "time, 95 %", "bad answers"),
        tuple(rows),
        above=(f"{arguments.per_second:g} requests a second, {arguments.base:g} % of stable's fail", ""),
        below=("", f"{arguments.reaction:g} s from a bad answer to weight 0: {harm}"),
        numbers=frozenset({"requests, median", "95 %", "time, 95 %", "bad answers"}),
    )


def _count(requests: float) -> str:
    return f"{requests:,.0f}" if math.isfinite(requests) else "never"


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "never"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


def _replay(arguments: argparse.Namespace) -> int:
    try:
        if arguments.log.stat().st_size > _MOST_LOG:
            raise UsageError(f"log {str(arguments.log)!r}: expected at most {_MOST_LOG >> 20} MiB, got more")
        with arguments.log.open(encoding="utf-8") as stream:
            log = Log.replayed(stream)
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"log {str(arguments.log)!r}: cannot be read: {exc}") from exc
    if arguments.digest and arguments.digest != log.chain:
        raise UsageError(
            f"log: expected {arguments.digest} as its last digest, got {log.chain}; lines are missing, or added"
        )
    return _say(log, arguments)


def _records(arguments: argparse.Namespace) -> int:
    signals = tuple(dict.fromkeys(arguments.signal or ("errors", "slow")))
    plan = Plan(
        terms=_terms(arguments),
        signals=signals,
        required=tuple(dict.fromkeys(arguments.require or ("errors",))),
        top=arguments.top,
        horizon=3600 * arguments.horizon,
        unit="user" if arguments.sticky else "request",
    )
    weights, weight = _weights(arguments.weight)
    reader = Reader(weights=weights, weight=weight, canary=arguments.canary, stable=arguments.stable)
    requests = reader.read(arguments.file)
    _log.info("%d requests", len(requests))
    log = Log(plan)
    lines = [log.first_line]
    for look in Feed(plan, slow=arguments.slow, sticky=arguments.sticky).looks(requests):
        lines.append(log.look(look))
        if log.entries[-1][1].action in MARKS:
            # A rollout would end here. What comes later would have had another weight.
            break
    if arguments.log:
        cli.write_file(arguments.log, "\n".join(lines) + "\n")
    return _say(log, arguments)


def _weights(given: Iterable[str]) -> tuple[dict[str, float], float | None]:
    by_revision: dict[str, float] = {}
    weight = None
    for text in given:
        revision, _, number = text.rpartition("=")
        try:
            found = _share_of_100(number)
        except argparse.ArgumentTypeError as exc:
            raise UsageError(f"--weight: {exc}") from exc
        if revision:
            by_revision[revision] = found
        else:
            weight = found
    return by_revision, weight


def _say(log: Log, arguments: argparse.Namespace) -> int:
    if not log.entries:
        raise NoEvidenceError("no requests: expected at least one look, got none")
    ruling = log.entries[-1][1]
    if arguments.json:
        made = {"schema": RULING_SCHEMA, "looks": len(log.entries), "digest": log.chain, **ruling.as_json()}
        sys.stdout.write(json.dumps(made, indent=2) + "\n")
    write(_table(ruling, log), sys.stderr if arguments.json else sys.stdout)
    if arguments.report:
        cli.write_file(arguments.report, verdict_page(log))
    return _EXIT_CODES.get(ruling.action, NoEvidenceError.exit_code)


def _table(ruling: Ruling, log: Log) -> Table:
    plan = log.judge.plan
    rows = tuple(
        Row(
            (
                signal.name,
                _times(signal.worse),
                "" if signal.not_worse is None else _times(signal.not_worse),
                "proven" if signal.proven else "required" if signal.required else "",
                signal.counts,
            )
        )
        for signal in ruling.signals
    )
    bounds = f"roll back at {1 / plan.terms.alpha:g} (all signals: {_times(ruling.evidence)}), proven at {1 / plan.terms.beta:g}"
    cohorts = (f"worse in the cohorts: {', '.join(ruling.cohorts)}",) if ruling.cohorts else ()
    return Table(
        ("signal", "evidence: worse", "not worse", "promotion", "counts"),
        rows,
        below=("", f"{len(log.entries):,} looks; {bounds}; digest {log.chain}", *cohorts, ruling.sentence),
        mark=MARKS.get(ruling.action, "open"),
        numbers=frozenset({"evidence: worse", "not worse"}),
    )


def _times(evidence: float) -> str:
    return f"{math.exp(min(evidence, 700)):.3g}"


def _positive(text: str) -> float:
    return _between(text, 0, math.inf)


def _per_cent(text: str) -> float:
    return _between(text, 0, 100)


def _share_of_100(text: str) -> float:
    return _between(text, -1e-12, 100 + 1e-12)


def _between(text: str, low: float, high: float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not low < found < high:
        message = f"expected a number above {low:g} and below {high:g}, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return found
