"""
Where the chart's values lie in those of a release: at the top, or, where another chart has it as a dependency, under the
dependency's name or alias.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfcanary.chart.source import NAME
from tfcanary.errors import UsageError

# What models and strategies say. A key of an umbrella chart's own has other keys inside.
_WRITTEN = (("model", "name"), ("routing", "routes"), ("tracks", "canary"), ("tracks", "stable"))
# These have no default: every copy of the chart has been given them.
_REQUIRED = ("model", "tracks")


@dataclass(frozen=True, slots=True)
class Copy:
    """
    One copy of the chart in a release.

    Attributes:
        release: the Helm release.
        values: its own.
        key: its name or alias in an umbrella chart; empty where the release is of this chart itself.
        misplaced: keys of models and strategies at the top of an umbrella chart's values, where no copy reads them.
    """

    release: str
    values: Mapping[str, Any]
    key: str = ""
    misplaced: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """
        The name that its objects share, as the chart's own helper makes it.
        """
        alias = "" if self.key == NAME else self.key
        own = self.values.get("nameOverride") or alias
        return str(self.values.get("fullnameOverride") or (f"{self.release}-{own}" if own else self.release))

    @property
    def app(self) -> str | None:
        """
        What tells its pods from those of other copies, as `app.kubernetes.io/name`; None where there are no others.
        """
        return self.key or None


def copy_in(release: str, values: Mapping[str, Any], key: str | None) -> Copy:
    """
    The copy of the chart that a release's values are of.

    Args:
        release: the Helm release.
        values: of the release, as Helm has them.
        key: which copy of an umbrella chart; None where the release is of this chart itself.

    Raises:
        UsageError: if the copy is not named, or there is none of that name.
    """
    copies = _copies(values)
    if not copies and key is None:
        return Copy(release, values)
    what = f"release {release!r}"
    if not copies:
        raise UsageError(f"--subchart: {what} is of this chart itself; leave --subchart {key} out")
    if key is None:
        raise UsageError(
            f"{what}: expected a release of the chart {NAME}, got one of an umbrella chart, with the values of "
            f"{NAME} under {', '.join(copies)}; add --subchart {copies[0]}"
        )
    if key not in copies:
        raise UsageError(f"--subchart: expected one of {', '.join(copies)}, as {what} has them, got {key!r}")
    return Copy(release, values[key], key, tuple(dict.fromkeys(_written(values))))


def require_plain(release: str, values: Mapping[str, Any]) -> None:
    """
    Refuse a release that a rollout cannot move: it upgrades the release with this chart, and finds objects by its name.

    Raises:
        UsageError: if the release is of an umbrella chart, its objects have another name, or its hosts are not its own.
    """
    if copies := _copies(values):
        raise UsageError(
            f"release {release!r}: expected a release of the chart {NAME}, got one of an umbrella chart, with the values of "
            f"{NAME} under {', '.join(copies)}; a rollout upgrades with the chart {NAME}: give the model a release of its own"
        )
    if (name := Copy(release, values).name) != release:
        raise UsageError(
            f"release {release!r}: expected objects with the release's name, got {name!r} by nameOverride or "
            "fullnameOverride; a rollout finds them by the release's name"
        )
    if _map(_map(values.get("gateway")).get("byModel")).get("enabled"):
        raise UsageError(
            f"release {release!r}: expected hosts of its own, got gateway.byModel.enabled; a rollout's gRPC calls do not name "
            "the model: give the release a host of its own"
        )


def given_to(key: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """
    What values files give to a copy of the chart.

    Args:
        key: of which copy of an umbrella chart; None for this chart itself.
        values: of the files, as `helm upgrade -f` takes them.

    Raises:
        UsageError: if they are for another place.
    """
    if key is None:
        nested = [one for one in values if one != "rollout" and any(_written(_map(values[one])))]
        if nested:
            raise UsageError(
                f"values: expected those of the chart {NAME} at the top, got them under {', '.join(nested)}, as for an "
                f"umbrella chart; add --subchart {nested[0]}"
            )
        return dict(values)
    if misplaced := list(dict.fromkeys(_written(values))):
        raise UsageError(
            f"values: expected {', '.join(misplaced)} under {key}, where the umbrella chart's copy reads it, got it at the "
            f"top, where helm upgrade changes nothing; indent the file below {key}:"
        )
    return dict(_map(values.get(key)))


def _copies(values: Mapping[str, Any]) -> list[str]:
    """
    The keys that copies of the chart have in the values of an umbrella chart.
    """
    return [one for one in values if all(name in _map(values[one]) for name in _REQUIRED)]


def _written(values: Mapping[str, Any]) -> Iterator[str]:
    """
    The keys of models and strategies in values.
    """
    return (key for key, inner in _WRITTEN if inner in _map(values.get(key)))


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
