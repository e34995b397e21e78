"""
A model of a few kilobytes, which halves its input, or divides it otherwise.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.export import servable
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.target import Target

MODEL = "half"
_SAVE = """
import sys, tensorflow as tf
module = tf.Module()
module.call = tf.function(lambda x: {"y": x / float(sys.argv[2])}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.call})
"""


def save(folder: Path, *, divisor: int = 2) -> None:
    """
    Save one version, without a manifest, in a process of its own: TensorFlow warns while it is imported.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", _SAVE, str(folder), str(divisor)],
        check=True,
        capture_output=True,
        env=environment,
    )


@contextmanager
def half_in_a_namespace(manager: AClusterManager, layout: Layout, folder: Path, prefix: str) -> Iterator[str]:
    """
    A namespace of a local cluster with the model as `manifest` leaves it, while the body runs.
    """
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    version = folder / "1"
    save(version)
    servable.write_manifest(version)
    store.publish_own(version, store.prepare_namespace(layout, name), MODEL, 1)
    yield name
    for kind, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", kind, item, "--wait=false"], as_dict=False)


def predict(target: Target, release: str) -> httpx.Response:
    """
    Ask the gateway for a prediction, by the host name that is made of the namespace.
    """
    return httpx.post(
        f"http://{gateway_address(LiveObjects(target), release)}/v1/models/{MODEL}:predict",
        headers={"host": f"{target.namespace}.test"},
        json={"instances": [2.0, 5.0]},
        trust_env=False,
        timeout=60,
    )
