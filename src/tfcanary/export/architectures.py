"""
The networks that can be exported: all that a command line needs to know before TensorFlow is started.
"""

import urllib.request
from dataclasses import dataclass

# With published weights, by the name that Keras gives them.
ARCHITECTURES = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
# Where the held-out pictures go: beside the versions, and no number, so that servers pass over it.
LABELLED = "labelled"
# Keras' own, see keras/src/applications/imagenet_utils.py: the file that decode_predictions() fetches.
CLASS_INDEX = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    How one architecture is trained.

    Attributes:
        floor: the least accuracy on the held-out pictures; a model below is not exported.
    """

    epochs: int
    rate: float
    batch: int
    floor: float


RECIPES = {
    "resnet20": Recipe(epochs=10, rate=4e-3, batch=64, floor=0.97),
    "resnet50": Recipe(epochs=12, rate=1e-3, batch=64, floor=0.95),
    "resnet101": Recipe(epochs=14, rate=1e-3, batch=64, floor=0.95),
}


def published_weights_at_hand(timeout_seconds: float = 5.0) -> bool:
    """
    Whether the place of the published weights answers at all: a look before TensorFlow is started, no download.
    """
    request = urllib.request.Request(CLASS_INDEX, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds):  # noqa: S310 - a constant, https
            return True
    except OSError:
        return False
