"""
A model of a few kilobytes, which halves its input.
"""

import os
import subprocess
import sys
from pathlib import Path

MODEL = "half"
_SAVE = """
import sys, tensorflow as tf
module = tf.Module()
module.call = tf.function(lambda x: {"y": x / 2}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.call})
"""


def save(folder: Path) -> None:
    """
    Save one version, without a manifest, in a process of its own: TensorFlow warns while it is imported.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", _SAVE, str(folder)], check=True, capture_output=True, env=environment
    )
