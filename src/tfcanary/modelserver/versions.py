"""
Find the versions of a model in the file system, and choose those to serve.

Follows tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc.
"""

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def listed(base: Path, name: str) -> dict[int, Path] | None:
    """
    List the versions in a base path: children whose names are numbers.

    Of two names for one number the last counts, as in IndexChildrenByVersion(): ``1`` and not ``001``.

    Args:
        base: the base path.
        name: the model's name, for the log.

    Returns:
        children by version; None if the base path cannot be read.
    """
    try:
        children = sorted(base.iterdir(), key=lambda child: child.name)
    except OSError as error:
        log.warning(
            "model %s: could not list base path %s: %s; its versions stay as they are "
            "(tensorflow_model_server would then change no version of any model)",
            *(name, base, error.strerror),
        )
        return None
    found: dict[int, Path] = {}
    for child in children:
        if not (child.name.isascii() and child.name.isdigit() and int(child.name) < 2**63):
            continue
        version = int(child.name)
        if version in found:
            log.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                *(version, child.name, found[version].name),
            )
        found[version] = child
    return found


def aspired(found: dict[int, Path], config: Any, name: str) -> list[int]:
    """
    Choose the versions to serve.

    Args:
        found: directories by version.
        config: the ModelConfig, whose version policy decides; by default the latest version is served.
        name: the model's name, for the log.

    Returns:
        the versions, in increasing order.
    """
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return sorted(found)
    if choice == "specific":
        for version in set(policy.specific.versions) - set(found):
            log.warning(
                "version %d of model %s, which the version policy asks for, was not found", version, name
            )
        return sorted(set(policy.specific.versions) & set(found))
    count = policy.latest.num_versions if choice == "latest" and policy.latest.num_versions else 1
    return sorted(found)[-count:]
