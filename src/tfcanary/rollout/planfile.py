"""
Read the plan of a rollout.

The file is YAML. `plan.schema.json` has every key, its type and its default; the rules across keys are here. All that is
wrong with a plan is said at once, one line each.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml

from tfcanary.chart.schema import problems
from tfcanary.chart.values import read_values
from tfcanary.errors import UsageError
from tfcanary.judge.plan import Plan as JudgePlan
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.terms import Terms, Tolerance
from tfcanary.rollout.desired import objection, weight_of
from tfcanary.rollout.plan import PROMOTION, Capacity, Limits, Plan, PlanError, Step, Traffic
from tfcanary.rollout.windows import Window, always_closed
from tfcanary.text import short

T = TypeVar("T")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9.]+)([a-z]+)")
_SCHEMA_FILE = Path(__file__).with_name("plan.schema.json")


def read_plan(path: Path) -> Plan:
    """
    Read a plan; values files in it are looked for beside it.

    Raises:
        PlanError: if it is missing, is no YAML, or cannot be right.
    """
    subject = f"plan {str(path)!r}"
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise PlanError(subject, [f"cannot be read: {reason}"]) from exc
    except yaml.MarkedYAMLError as exc:
        # The rest of the message quotes the file, which may hold what is no plan's business.
        line = f"line {exc.problem_mark.line + 1}: " if exc.problem_mark else ""
        raise PlanError(subject, [f"not YAML: {line}{exc.problem}"]) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise PlanError(subject, [f"not YAML: {type(exc).__name__}"]) from exc
    return plan_from(document, subject=subject, folder=path.parent)


def plan_from(document: object, *, subject: str = "plan", folder: Path = Path()) -> Plan:
    """
    The plan of a document.

    Args:
        document: as YAML has it, or the `document` of another plan.
        subject: what the errors name.
        folder: where the values files are.

    Raises:
        PlanError: for all that is wrong with it.
    """
    schema = _schema()
    found = [_hidden(path, str(error)) for path, error in problems(schema, document, "the plan")]
    if found or not isinstance(document, dict):
        raise PlanError(subject, found)
    whole = json.loads(json.dumps(_filled(document, schema)))
    reader = _Reader(whole, folder)
    plan = reader.plan()
    if reader.found or plan is None:
        raise PlanError(subject, reader.found)
    return plan


class _Loader(yaml.SafeLoader):
    """
    YAML in which a key that is given twice is an error: one of the two would be ignored.
    """


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} is given twice", key.start_mark
            )
        seen.add(key.value)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@functools.cache
def _schema() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(_SCHEMA_FILE.read_text(encoding="utf-8"))
    return found


def _filled(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    The document with the schema's defaults.
    """
    made = dict(document)
    for name, below in schema["properties"].items():
        reference = below.get("$ref")
        below = {**_schema()["definitions"][reference.rsplit("/", 1)[-1]], **below} if reference else below  # noqa: PLW2901
        if name not in made and "default" in below:
            made[name] = below["default"]
        if isinstance(made.get(name), dict) and "properties" in below:
            made[name] = _filled(made[name], below)
    return made


def _hidden(path: str, line: str) -> str:
    """
    A line about a plan, without what may be a secret.
    """
    secret = path.startswith(("notify", "traffic.url"))
    return re.sub(r", got .*", ", got something else, which is not shown", line) if secret else line


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"expected a duration, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


class _Reader:
    """
    Reads a document that the schema accepts, and collects what is wrong with it.
    """

    def __init__(self, document: dict[str, Any], folder: Path) -> None:
        self.found: list[str] = []
        self._given = document
        self._folder = folder

    def plan(self) -> Plan | None:
        """
        The plan; None if it cannot be made.
        """
        given = self._given
        limits = Limits(**{name: _seconds(text) for name, text in given["limits"].items()})
        steps = self._steps()
        if self.found:
            # What is wrong with the steps is said once, and not again of all that follows from them.
            steps = ()
            given["approvals"] = [one for one in given["approvals"] if one == PROMOTION]
        ramp = self._tried("ramp", lambda: self._ramp(steps, limits))
        weights = [step.weight for step in steps] or given["ramp"]["ladder"]
        judge = self._tried("judge", lambda: self._judge(weights[-1], limits))
        bake = _seconds(given["bake"]["time"])
        self._limits(limits, bake)
        windows = self._windows()
        gates = self._gates(weights)
        self._across(weights)
        if self.found or ramp is None or judge is None:
            return None
        capacity, traffic = given["capacity"], given["traffic"]
        prometheus = traffic["url"] if traffic["from"] == "prometheus" else None
        return Plan(
            **given["tracks"],
            release=given["release"],
            to=given["to"],
            steps=steps,
            ramp=ramp,
            judge=judge,
            slow=_seconds(given["judge"]["slowAfter"]),
            limits=limits,
            bake=bake,
            control=given["bake"]["control"],
            gates=gates,
            promotion=PROMOTION in given["approvals"],
            windows=windows,
            capacity=Capacity(
                capacity["requestsPerSecond"], capacity["onShortage"] == "scale", capacity["mostPods"]
            ),
            probes=given["probes"]["count"],
            probes_per_second=given["probes"]["perSecond"],
            traffic=Traffic(prometheus, traffic["perSecond"]),
            webhook=given["notify"]["urlFrom"],
            document=given,
        )

    def _tried(self, path: str, make: Callable[[], T]) -> T | None:
        """
        What a class of the judge makes of its part, or None and its objection.
        """
        try:
            return make()
        except UsageError as exc:
            self.found.append(f"{path}: {exc}")
            return None

    def _steps(self) -> tuple[Step, ...]:
        steps = self._given["steps"]
        if isinstance(steps, str):
            if steps != "auto":
                self.found.append(
                    f"steps: expected auto, a list of weights, or a list of values files, got {steps!r}"
                )
            return ()
        if not 1 <= len(steps) <= 20 or len({isinstance(one, int) for one in steps}) > 1:
            self.found.append(
                f"steps: expected 1 to 20 weights, or as many values files, got {short(json.dumps(steps))}"
            )
            return ()
        made: list[Step] = []
        kept: list[Any] = []
        for index, one in enumerate(steps):
            if isinstance(one, int):
                made.append(Step(one))
                kept.append(one)
            elif (routes := self._routes(index, one)) is not None:
                made.append(Step(weight_of(routes, self._given["tracks"]["canary"]), tuple(routes)))
                kept.append({"file": one if isinstance(one, str) else one.get("file", ""), "routes": routes})
        # A later driver may not have the files.
        self._given["steps"] = kept
        most = 100 - self._given["bake"]["control"]
        for index, step in enumerate(made):
            if not 0 < step.weight < most:
                self.found.append(
                    f"steps[{index}]: expected a weight from 1 % and below that of the bake, {most} %, got {step.weight:g} %"
                )
            elif index and step.weight <= made[index - 1].weight:
                self.found.append(
                    f"steps[{index}]: expected more than {made[index - 1].weight:g} % before it, got {step.weight:g} %"
                )
        return tuple(made)

    def _routes(self, index: int, one: Any) -> list[dict[str, Any]] | None:
        """
        The routes of a step; None if they cannot be read or judged.
        """
        where = f"steps[{index}]"
        if isinstance(one, str):
            try:
                values = read_values(self._folder / one)
            except UsageError as exc:
                self.found.append(f"{where}: {exc}")
                return None
            routing = values.get("routing")
            routes = routing.get("routes") if isinstance(routing, dict) else None
            if (
                not isinstance(routes, list)
                or not all(isinstance(route, dict) for route in routes)
                or not routes
            ):
                self.found.append(
                    f"{where}: {one}: expected routing.routes, got {short(json.dumps(routing))}"
                )
                return None
        else:
            routes = one["routes"]
        wrong = objection(routes, **self._given["tracks"], unit=self._given["judge"]["unit"])
        if wrong:
            self.found.append(f"{where}: {wrong}")
            return None
        return list(routes)

    def _ramp(self, steps: tuple[Step, ...], limits: Limits) -> Ramp:
        """
        The ramp; fixed steps are its ladder, and grow as they say.
        """
        given = self._given["ramp"]
        if not steps:
            return Ramp(
                tuple(given["ladder"]), given["answers"], given["growth"], given["first"], limits.least
            )
        weights = [step.weight for step in steps]
        growth = max([given["growth"], *(high / low for low, high in itertools.pairwise(weights) if low)])
        return Ramp(tuple(weights), given["answers"], growth, max(given["first"], weights[0]), limits.least)

    def _judge(self, top: float, limits: Limits) -> JudgePlan:
        given = self._given["judge"]
        errors, slow = (
            Tolerance(given[name]["times"], given[name]["points"] / 100) for name in ("errors", "slow")
        )
        return JudgePlan(
            terms=Terms(alpha=given["alpha"], beta=given["beta"], errors=errors, slow=slow),
            signals=tuple(given["signals"]),
            required=tuple(given["required"]),
            top=top,
            horizon=limits.total,
            least_seconds=limits.least,
            least_requests=given["leastRequests"],
            stale=_seconds(given["stale"]),
            missing=given["missing"],
            unit=given["unit"],
        )

    def _limits(self, limits: Limits, bake: float) -> None:
        for name in ("most", "total", "ready", "propagation", "outage", "look"):
            if getattr(limits, name) <= 0:
                self.found.append(f"limits.{name}: expected more than 0 s, got {getattr(limits, name):g} s")
        if limits.least >= limits.most:
            self.found.append(
                f"limits.most: expected more than limits.least, {limits.least:g} s, got {limits.most:g} s"
            )
        if limits.most + bake >= limits.total:
            self.found.append(
                f"limits.total: expected more than limits.most and bake.time, {limits.most + bake:g} s, got {limits.total:g} s"
            )
        if limits.look >= _seconds(self._given["judge"]["stale"]):
            self.found.append(
                f"limits.look: expected less than judge.stale, {self._given['judge']['stale']}, got {limits.look:g} s"
            )

    def _windows(self) -> tuple[Window, ...]:
        made = []
        for index, given in enumerate(self._given["blackouts"]):
            try:
                made.append(Window.from_json(given))
            except UsageError as exc:
                self.found.append(f"blackouts[{index}].{exc}")
        if made and always_closed(made):
            self.found.append("blackouts: expected a time of the week in which the weight may grow, got none")
        return tuple(made)

    def _gates(self, weights: "list[float]") -> tuple[float, ...]:
        given = self._given["approvals"]
        for index, one in enumerate(given):
            if one in given[:index]:
                self.found.append(f"approvals[{index}]: expected each gate once, got {one} again")
            elif one != PROMOTION and one not in (0, *weights):
                steps = ", ".join(f"{weight:g}" for weight in weights)
                self.found.append(
                    f"approvals[{index}]: expected 0, one of the weights {steps}, or {PROMOTION}, got {one!r}"
                )
        return tuple(one for one in given if one != PROMOTION)

    def _across(self, weights: "list[float]") -> None:
        """
        Rules across the other keys.
        """
        given = self._given
        if len(set(given["tracks"].values())) == 1:
            self.found.append(f"tracks: expected two, got {given['tracks']['stable']} as both")
        most = 100 - given["bake"]["control"]
        if given["steps"] == "auto" and weights[-1] >= most:
            self.found.append(
                f"ramp.ladder: expected weights below that of the bake, {most} %, got {weights[-1]} %"
            )
        if given["capacity"]["onShortage"] == "scale" and given["capacity"]["requestsPerSecond"] is None:
            self.found.append("capacity.requestsPerSecond: expected a number for onShortage: scale, got none")
        paired = {"disagreement", "accuracy"} & {*given["judge"]["signals"], *given["judge"]["required"]}
        if paired and not given["probes"]["count"] and not given["probes"]["perSecond"]:
            self.found.append(
                f"probes: expected a count or perSecond for {', '.join(sorted(paired))}, got none"
            )
        self._traffic(given["traffic"])

    def _traffic(self, given: Mapping[str, Any]) -> None:
        url = given["url"]
        if given["from"] == "driver":
            if url is not None:
                self.found.append(
                    "traffic.url: expected none with from: driver, got one; set from: prometheus"
                )
            return
        try:
            parts = urlsplit(url or "")
            right = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            right = False
        if not right:
            self.found.append("traffic.url: expected Prometheus's http:// or https:// URL, got another value")
        elif parts.username is not None or parts.password is not None or parts.query:
            self.found.append(
                "traffic.url: expected a URL without user, password and query, which would be stored with the plan"
            )
