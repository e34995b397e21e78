"""
Write the chart's README from values.yaml: ``python tests/chart/write_readme.py``.

The table has a line for each key, with its default and the sentences above it, as helm-docs makes it; a test compares.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "tfserving-canary"
HEAD = """# tfserving-canary

{description}

Chart {version}, TensorFlow Serving {app_version}, Kubernetes {kubernetes}, Istio with its CNI plugin or native sidecars (the pods
fit Pod Security *restricted*; an `istio-init` container would not).

```
helm install resnet charts/tfserving-canary -f values/env/local.yaml -f values/models/resnet.yaml -f values/stable.yaml --wait
helm upgrade resnet charts/tfserving-canary --reset-then-reuse-values -f values/canary-10.yaml
helm test resnet
```

Deploying a track, moving traffic to it and taking it down are three upgrades. One that would lose requests, because a track has
no Ready pods yet or still has traffic, is refused with what to do first (`routing.requireReady`). `helm template` cannot look at a
cluster: Argo CD applies the routes after the pods by their sync wave; whoever applies rendered files by hand applies the
VirtualServices last.

## What it makes

| object | where |
|---|---|
| Deployment, ServiceAccount, ConfigMap, and where asked for HorizontalPodAutoscaler and PodDisruptionBudget | for each track |
| Service, Gateway, DestinationRule, VirtualService (and one for callers inside the mesh) | for the release |
| AuthorizationPolicy, PeerAuthentication, NetworkPolicy | for the release |
| EnvoyFilter, and with tokens RequestAuthentication | in the gateway's namespace |

## Values

Required: `model.name`, `tracks.stable.version`, `tracks.canary.version`.

| Key | Default | Description |
|---|---|---|
"""


def rows(lines: list[str], values: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """
    The path, default and text of every key that has a comment with `# --` above it.
    """
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in lines:
        said = re.fullmatch(r" *# ?(.*)", line)
        if said:
            if said[1].startswith("-- "):
                comment = [said[1].removeprefix("-- ")]
            elif comment:
                comment.append(said[1])
            continue
        found = re.fullmatch(r"( *)([A-Za-z0-9]+):.*", line)
        if found:
            path = [one for one in path if one[0] < len(found[1])] + [(len(found[1]), found[2])]
            if comment:
                keys = [key for _, key in path]
                default: Any = values
                for key in keys:
                    default = default[key]
                text = json.dumps(default, separators=(", ", ": ")).replace("|", "\\|")
                yield ".".join(keys), f"`{text}`", " ".join(comment).replace("|", "\\|")
        comment = []


def readme() -> str:
    """
    The text of the README.
    """
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    head = HEAD.format(
        description=about["description"],
        version=about["version"],
        app_version=about["appVersion"],
        kubernetes=about["kubeVersion"].removesuffix("-0"),
    )
    table = [
        f"| `{key}` | {default} | {said} |"
        for key, default, said in rows(text.splitlines(), yaml.safe_load(text))
    ]
    return head + "\n".join(table) + "\n"


def main() -> int:
    """
    Write it.
    """
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
