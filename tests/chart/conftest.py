"""
Rendering for the chart tests: the whole chart once for each combination of values, by the helm on PATH.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from tfcanary.cluster import binaries
from tfcanary.errors import UnreachableError

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tfserving-canary"
VALUES = ROOT / "values"
# Given explicitly, since a helm that was built without its release flags claims an ancient version.
KUBERNETES = "1.34.4"
# For helm: a process that lives for a tenth of a second spends a fifth of it on collecting garbage.
os.environ.setdefault("GOGC", "400")


# libyaml's, where PyYAML was built with it: the tests parse a lot.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]


class HelmFailedError(Exception):
    """
    Helm refused to render; its stderr says why.
    """


@functools.cache
def _as_json(document: str) -> str:
    """
    An object as JSON, which is read thirty times as fast: most objects come again and again.
    """
    return json.dumps(yaml.load(document, Loader=_LOADER))  # noqa: S506 - a safe loader


@dataclass(frozen=True, slots=True)
class Rendered:
    """
    What the chart renders from one combination of values.
    """

    text: str

    @property
    def documents(self) -> list[str]:
        """
        The text of each object, as rendered.
        """
        return [part.partition("\n")[2] for part in self.text.split("---\n")[1:]]

    @property
    def texts(self) -> dict[tuple[str, str], str]:
        """
        The text of each object by kind and name, without the work of parsing them.
        """
        found = {}
        for document in self.documents:
            kind, name = (
                re.search(pattern, document, re.MULTILINE)
                for pattern in (r"^kind: (.+)$", r"^  name: \"(.+)\"$")
            )
            assert kind is not None
            assert name is not None
            found[kind[1], name[1]] = document
        return found

    @property
    def objects(self) -> dict[tuple[str, str], Object]:
        """
        All objects by kind and name. Each access gives fresh copies, because a test may change them.
        """
        parsed = [json.loads(_as_json(document)) for document in self.documents]
        by_name = {(item["kind"], item["metadata"]["name"]): item for item in parsed}
        assert len(by_name) == len(parsed), "two objects share kind and name"
        return by_name

    def all(self, kind: str) -> dict[str, Object]:
        """
        The objects of a kind by name. There is at least one: a loop over none would test nothing.
        """
        found = {name: item for (of_kind, name), item in self.objects.items() if of_kind == kind}
        assert found, f"no {kind} was rendered"
        return found

    def one(self, kind: str) -> Object:
        """
        The only object of a kind.
        """
        (found,) = self.all(kind).values()
        return found

    @property
    def virtual_service(self) -> Object:
        """
        The VirtualService of the gateway.
        """
        (found,) = (item for name, item in self.all("VirtualService").items() if not name.endswith("-mesh"))
        return found

    @property
    def routes(self) -> list[Object]:
        """
        The http entries of the gateway's VirtualService.
        """
        return list(self.virtual_service["spec"]["http"])

    @property
    def mesh_routes(self) -> list[Object]:
        """
        The http entries of the VirtualService for callers inside the mesh.
        """
        (found,) = (item for name, item in self.all("VirtualService").items() if name.endswith("-mesh"))
        return list(found["spec"]["http"])

    @property
    def revision(self) -> str:
        """
        The route revision that the VirtualService is annotated with.
        """
        return self.virtual_service["metadata"]["annotations"]["tfserving-canary/route-revision"]


def helm(*arguments: str, stdin: str = "", program: str = "helm") -> str:
    """
    What helm prints.
    """
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HelmFailedError(done.stderr)
    return done.stdout


@functools.cache
def _render(
    files: tuple[str, ...], values: str, options: tuple[str, ...], release: str, program: str
) -> Rendered:
    given = [argument for name in files for argument in ("-f", str(VALUES / f"{name}.yaml"))]
    command = ("template", release, str(CHART), "--kube-version", KUBERNETES, *given, "-f", "-", *options)
    return Rendered(helm(*command, stdin=values, program=program))


def render(
    *strategies: str,
    environment: str = "local",
    models: str = "",
    values: Mapping[str, Any] | None = None,
    options: tuple[str, ...] = (),
    release: str = "resnet",
    program: str = "helm",
) -> Rendered:
    """
    Render the chart from an environment, models and strategies, given one after the other; values override them.

    Without a name the models are the ResNets, three of them where a strategy asks for a third track.
    """
    models = models or ("resnet-abn" if "ab-test" in strategies else "resnet")
    files = (f"env/{environment}", f"models/{models}", *strategies)
    return _render(files, json.dumps(values or {}), options, release, program)


def stems(folder: Path) -> list[str]:
    """
    The values files of a folder: a new file is tested without any list being edited.
    """
    found = sorted(path.stem for path in folder.glob("*.yaml"))
    assert found, f"no values file in {folder}"
    return found


STRATEGIES = stems(VALUES)
ENVIRONMENTS = stems(VALUES / "env")
MODELS = stems(VALUES / "models")
# The models that every strategy fits.
ALL_TRACKS = "resnet-abn"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run a test that names one of these arguments for each values file, or for each ordered pair of strategies.
    """
    choices: dict[str, list[Any]] = {
        "strategy": STRATEGIES,
        "environment": ENVIRONMENTS,
        "models": MODELS,
    }
    for name, files in choices.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, files)
    if {"before", "after"} <= set(metafunc.fixturenames):
        pairs = list(itertools.permutations(STRATEGIES, 2))
        metafunc.parametrize(("before", "after"), pairs, ids=[f"{a}-to-{b}" for a, b in pairs])


@pytest.fixture(scope="session", autouse=True)
def _helm_is_there() -> None:
    if shutil.which("helm") is None:
        reason = "helm is not on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(name="render", scope="session")
def _render_fixture() -> Callable[..., Rendered]:
    return render


@pytest.fixture(scope="session")
def gateway_chart() -> Callable[..., Object]:
    """
    Render the gateway's own chart: its only object.
    """

    def rendered(values: Mapping[str, Any] | None = None) -> Object:
        text = helm(
            *("template", "tfserving-gateway", "charts/tfserving-gateway", "--namespace=istio-system"),
            *(f"--kube-version={KUBERNETES}", "-f", "-"),
            stdin=json.dumps(values or {}),
        )
        (found,) = Rendered(text).objects.values()
        return dict(found)

    return rendered


@pytest.fixture(name="helm", scope="session")
def _helm_fixture() -> Callable[..., str]:
    return helm


def built(tree: str, program: str) -> str:
    """
    The path of a program that only these tests run, built where it never was.
    """
    try:
        return str(binaries.program(tree, program))
    except UnreachableError as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def complaint() -> Callable[..., str | None]:
    """
    What helm says where it refuses; nothing where it does not.
    """

    def tried(*arguments: str, **options: str) -> str | None:
        try:
            helm(*arguments, **options)
        except HelmFailedError as exc:
            return str(exc)
        return None

    return tried


@pytest.fixture(scope="session")
def helm_4() -> str:
    """
    Helm 4; `helm` on PATH is Helm 3.
    """
    return built("helm4", "helm")


@pytest.fixture(scope="session")
def helm_docs() -> str:
    """
    The program that makes a chart's README of its values.
    """
    return built("helm-docs", "helm-docs")


@contextlib.contextmanager
def _running(configuration: Object, folder: Path, ready: Callable[[], bool]) -> Iterator[None]:
    try:
        program = binaries.envoy()
    except UnreachableError as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(exc))
    (folder / "envoy.json").write_text(json.dumps(configuration))
    command = [program, "-c", folder / "envoy.json", "--use-dynamic-base-id", "--concurrency", "1"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until = time.monotonic() + 30
            while not ready():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def envoy() -> Callable[..., Any]:
    """
    Run a real Envoy with a configuration and a folder of its own, once it is ready.
    """
    return _running


@pytest.fixture(name="refused", scope="session")
def _refused_fixture() -> Callable[..., str]:
    """
    Render what must be refused, and give helm's message.
    """

    def refused(*arguments: Any, **options: Any) -> str:
        with pytest.raises(HelmFailedError) as caught:
            render(*arguments, **options)
        return str(caught.value)

    return refused


@functools.cache
def _beside(name: str) -> ModuleType:
    """
    A module of this folder, which is no package.
    """
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def proxies() -> ModuleType:
    """
    What Istio makes of a rendering for a real Envoy.
    """
    return _beside("proxies")


@pytest.fixture(scope="session")
def broken() -> Callable[..., Any]:
    """
    The promises that a rendering breaks.
    """
    return _beside("promises").broken


@pytest.fixture(scope="session")
def violations() -> Callable[..., list[str]]:
    """
    What Pod Security *restricted* has against a pod.
    """
    return _beside("promises").violations


@pytest.fixture(scope="session")
def istio() -> Callable[..., Any]:
    """
    What Istio does by a rendered VirtualService.
    """
    return _beside("istio").answer


@functools.cache
def _definitions() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("schemas.json").read_text())["definitions"]


@functools.cache
def _validator(kind: str, group: str) -> jsonschema.Draft4Validator:
    # Istio and the Gateway API both have a Gateway.
    name = f"{group}.{kind}" if group == "gateway.networking.k8s.io" else kind
    schema = {"$ref": f"#/definitions/{name}", "definitions": _definitions()}
    return jsonschema.Draft4Validator(schema)


@functools.cache
def _problems(text: str) -> tuple[str, ...]:
    item = json.loads(text)
    return tuple(
        f"{error.json_path}: {error.message}"
        for error in _validator(item["kind"], item["apiVersion"].partition("/")[0]).iter_errors(item)
    )


@pytest.fixture(scope="session")
def problems_with() -> Callable[[Object], tuple[str, ...]]:
    """
    What the vendored schema of its kind says against an object; many objects come again.
    """
    return lambda item: _problems(json.dumps(item, sort_keys=True))


@pytest.fixture(scope="session")
def root() -> Path:
    """
    The checkout.
    """
    return ROOT


@pytest.fixture(scope="session")
def chart() -> Path:
    """
    The chart's folder.
    """
    return CHART


@pytest.fixture(scope="session")
def values_folder() -> Path:
    """
    The folder of the values files.
    """
    return VALUES


@pytest.fixture(scope="session")
def strategies() -> list[str]:
    """
    The names of all strategy files.
    """
    return STRATEGIES
