"""
The command behind `scripts/rollout.py`: release a version step by step, on evidence, or go back.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.live import Live

from tfcanary import cli
from tfcanary.chart.source import opened
from tfcanary.client.endpoint import Tls
from tfcanary.client.given import given_by
from tfcanary.commands import rollout_options as options
from tfcanary.errors import DoesNotHoldError, UnreachableError, UsageError
from tfcanary.kube.claim import LEASE_SECONDS
from tfcanary.report.rollout_page import live_page, record_page
from tfcanary.report.rollout_table import history_table, outlook_table, state_json, state_table
from tfcanary.report.rollout_view import teller, view
from tfcanary.report.serve import serving
from tfcanary.report.table import write
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.driver import Driver
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.outlook import simulated
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.planfile import plan_from, read_plan
from tfcanary.rollout.state import State, from_text
from tfcanary.rollout.way import Way
from tfcanary.target import Target

Command = Callable[[argparse.Namespace], int]

_EPILOG = (
    "exit codes: 0 promoted, or done · 1 rolled back or failed · 2 wrong use, or refused now · 3 cannot reach · "
    "4 not enough evidence · 130 interrupted"
)
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, *, prog: str = "scripts/rollout.py") -> int:
    """
    Run the part that the first argument names.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    top = cli.Parser(
        prog=prog,
        usage=f"{prog} {{{','.join(PARTS)}}} [ARGUMENTS]",
        description="Release a version of the model step by step, on evidence, or go back.",
        epilog=_EPILOG,
    )
    top.add_argument("part", choices=PARTS, metavar="PART", help=f"`{prog} PART --help` says more")
    part = top.parse_args(given[:1]).part
    description, add, command = PARTS[part]
    parser = cli.Parser(prog=f"{prog} {part}", description=description, epilog=_EPILOG)
    add(parser)
    return cli.run(parser, command, given[1:])


def _start(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    # A Job that is started again has lost its driver, whose Lease may not be over.
    patience = LEASE_SECONDS + 2 if arguments.run else 0
    with opened(arguments.chart) as chart:
        return _driven(
            arguments,
            _cluster(arguments, plan.release, plan=plan, way=_way(arguments, chart)),
            lambda cluster, me: starting.start(
                cluster, plan, me, by=arguments.by, run=arguments.run, patience_seconds=patience
            ),
        )


def _resume(arguments: argparse.Namespace) -> int:
    return _gone_on(arguments, starting.resume)


def _abort(arguments: argparse.Namespace) -> int:
    return _gone_on(arguments, starting.abort)


def _patient(begin: Callable[..., Driver | None], cluster: LiveCluster, me: str, by: str) -> Driver | None:
    """
    Take over from a driver that is gone as soon as its Lease is over; one that is alive goes on.
    """
    driver, asked = begin(cluster, me, by=by), cluster.load()
    ends = cluster.now() + LEASE_SECONDS + 2
    while driver is None and cluster.load() == asked and cluster.now() < ends:
        cluster.wait(1.0)
        driver = begin(cluster, me, by=by)
    return driver


def _gone_on(arguments: argparse.Namespace, begin: Callable[..., Driver | None]) -> int:
    with opened(arguments.chart) as chart:
        return _driven(
            arguments,
            _cluster(arguments, arguments.release or "resnet", way=_way(arguments, chart)),
            lambda cluster, me: _patient(begin, cluster, me, arguments.by),
        )


def _driven(
    arguments: argparse.Namespace, cluster: LiveCluster, begin: Callable[[LiveCluster, str], Driver | None]
) -> int:
    """
    Drive a rollout to its end, unless another driver is at work.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    me = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    with contextlib.closing(cluster):
        try:
            driver = begin(cluster, me)
            if driver is None:
                state = _state(cluster)
                _log.info(
                    "rollout %s: %s; its driver %s takes it from here",
                    state.run,
                    state.stage.value,
                    state.driver,
                )
                return _code(state) if state.ended else 0
            state = driver.drive()
        except KeyboardInterrupt:
            _log.warning(
                "interrupted: the rollout stays where it is, and nobody judges it now; "
                "`rollout resume` goes on, `rollout abort` goes back"
            )
            raise
        return _ended(arguments, cluster, state)


def _ended(arguments: argparse.Namespace, cluster: LiveCluster, state: State) -> int:
    record = cluster.last_record()
    sys.stdout.write(f"rollout {state.run}: {state.phase.value}: {state.reason}\n")
    if record is not None and record["run"] == state.run:
        if arguments.record:
            cli.write_file(arguments.record, json.dumps(record, indent=2) + "\n", "--record")
        if arguments.report:
            cli.write_file(arguments.report, record_page(record), "--report")
    return _code(state)


def _code(state: State) -> int:
    return 0 if state.phase is Phase.SUCCEEDED else DoesNotHoldError.exit_code


def _wish(verb: str) -> Command:
    def ask(arguments: argparse.Namespace) -> int:
        anyway = getattr(arguments, "anyway", False)
        state = verbs.ask(
            _cluster(arguments, arguments.release or "resnet"), verbs.ANYWAY if anyway else verb, arguments.by
        )
        sys.stdout.write(
            f"rollout {state.run}: {state.stage.value}; {state.notes[-1].text if state.notes else verb}\n"
        )
        return 0

    return ask


def _status(arguments: argparse.Namespace) -> int:
    cluster = _cluster(arguments, arguments.release or "resnet")
    stored = cluster.load()
    if stored is None:
        sys.stdout.write("null\n" if arguments.json else "no rollout; `rollout start` begins one\n")
        return 0
    state = from_text(stored.text)
    plan, now = plan_from(state.plan), cluster.now()
    if arguments.json:
        sys.stdout.write(json.dumps(state_json(state, plan, now), indent=2) + "\n")
    else:
        write(state_table(plan, state, now), sys.stdout)
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    cluster = _cluster(arguments, arguments.release or "resnet")
    if cluster.load() is None:
        raise UsageError("rollout: there is none; `rollout start` begins one")

    def page() -> str:
        state = _state(cluster)
        return live_page(plan_from(state.plan), state, cluster.now(), arguments.every)

    with contextlib.ExitStack() as stack:
        if arguments.serve:
            url = stack.enter_context(serving(arguments.serve, page, refresh_seconds=arguments.every))
            _log.info("the rollout at %s", url)
        try:
            state = _followed(cluster, arguments.every, live=sys.stdout.isatty())
        except KeyboardInterrupt:
            # The rollout goes on without a watcher.
            return 0
    return _code(state)


def _followed(cluster: LiveCluster, every: float, *, live: bool) -> State:
    """
    Show a rollout until it has ended: as a view that stays in place, or line by line where there is no terminal.
    """
    told = teller(lambda line: sys.stdout.write(f"{line}\n"))
    with contextlib.ExitStack() as stack:
        screen = stack.enter_context(Live(refresh_per_second=4)) if live else None
        while True:
            try:
                state = _state(cluster)
            except UnreachableError as exc:
                _log.warning("%s; trying again", exc)
                cluster.wait(every)
                continue
            if screen is not None:
                screen.update(view(plan_from(state.plan), state, cluster.now()))
            else:
                told(state)
                sys.stdout.flush()
            if state.ended and state.announced:
                return state
            cluster.wait(every)


def _explain(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    per_second = arguments.per_second or plan.traffic.per_second
    _log.info("trying %d rollouts", arguments.runs)
    found = simulated(
        plan, per_second=per_second, base=arguments.base / 100, pods=arguments.pods, runs=arguments.runs
    )
    if arguments.json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
    else:
        write(outlook_table(plan, found), sys.stdout)
    return 0


def _history(arguments: argparse.Namespace) -> int:
    cluster = _cluster(arguments, arguments.release or "resnet")
    if arguments.json:
        sys.stdout.write(json.dumps(cluster.last_record(), indent=2) + "\n")
        return 0
    stored = cluster.load()
    if stored is None:
        sys.stdout.write("no rollout so far\n")
        return 0
    write(history_table(from_text(stored.text)), sys.stdout)
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    if (arguments.plan is None) == (arguments.to is None):
        raise UsageError(
            "plan: expected a PLAN file or --to VERSION, got "
            + ("neither" if arguments.to is None else "both")
        )
    if arguments.plan is None:
        return plan_from({"release": arguments.release or "resnet", "to": arguments.to})
    plan = read_plan(arguments.plan)
    if arguments.release not in (None, plan.release):
        raise UsageError(f"--release: expected {plan.release}, as the plan has it, got {arguments.release}")
    return plan


def _cluster(
    arguments: argparse.Namespace, release: str, *, plan: Plan | None = None, way: Way | None = None
) -> LiveCluster:
    target = Target(arguments.namespace, arguments.kubeconfig, arguments.context, arguments.helm)
    # Each line has its own time.
    saved = teller(lambda line: sys.stderr.write(f"{line}\n"))
    return LiveCluster(release, target, way, plan=plan, saved=saved)


def _way(arguments: argparse.Namespace, chart: Path) -> Way:
    if arguments.ca is not None and not arguments.tls:
        raise UsageError("--ca: expected --tls with it, got none")
    return Way(
        gateway=arguments.gateway,
        host=arguments.host,
        tls=Tls(arguments.ca) if arguments.tls else None,
        given=given_by(arguments.requests, arguments.saved_model),
        chart=chart,
        token_file=arguments.prometheus_token,
        ca_file=arguments.prometheus_ca,
    )


def _state(cluster: LiveCluster) -> State:
    stored = cluster.load()
    if stored is None:
        raise UsageError("rollout: there is none; `rollout start` begins one")
    return from_text(stored.text)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


PARTS: dict[str, tuple[str, Callable[[cli.Parser], None], Command]] = {
    "start": ("Begin a rollout, and drive it to its end.", options.add_start, _start),
    "status": ("Say where the rollout is.", options.add_shown, _status),
    "watch": ("Show the rollout until it has ended.", options.add_watch, _watch),
    "explain": (
        "Say what a rollout of this plan would take, without a cluster.",
        options.add_explain,
        _explain,
    ),
    "pause": ("Let no weight grow; the judge keeps watching.", options.add_wish, _wish(verbs.PAUSE)),
    "resume": ("End a pause, and drive the rollout if nobody does.", options.add_going_on, _resume),
    "promote": ("Open the gate that waits for an approval.", options.add_promote, _wish(verbs.PROMOTE)),
    "abort": (
        "Go back to the baseline, and drive the rollout there if nobody does.",
        options.add_going_on,
        _abort,
    ),
    "history": ("Say how the rollouts of a release ended.", options.add_shown, _history),
}
