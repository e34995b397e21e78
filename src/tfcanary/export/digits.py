"""
Train residual networks on the handwritten digits that scikit-learn ships: models whose answers are right, offline.

Their 1,797 pictures have 8 by 8 pixels; here they have 32, which is the least that Keras' ResNets take. The split
is fixed and a fifth is held out, so that every model, of any seed, is measured on the same unseen pictures.
"""

import gzip
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfcanary import samples
from tfcanary.errors import DoesNotHoldError
from tfcanary.export.architectures import RECIPES, Recipe
from tfcanary.paths import cache_folder

log = logging.getLogger(__name__)
SIDE = 32
LABELS = [str(digit) for digit in range(10)]
SPLIT_SEED = 20
# Of each class, so that the held-out fifth has all of them alike.
ONE_IN = 5
SHIFT = 2
# Certainty of one class and nothing for the others would hide a difference between two models.
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Pictures:
    """
    Pictures as float32 RGB from 0 to 255, NHWC, and the digit on each.
    """

    images: Any
    digits: Any


def pictures() -> tuple[Pictures, Pictures]:
    """
    Read the digits, and split them: those to train on, and those held out.
    """
    import tensorflow as tf  # noqa: PLC0415

    with gzip.open(samples.digits(), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    grey = (table[:, :-1] * (255 / 16)).reshape(-1, 8, 8, 1)
    large = np.round(tf.image.resize(grey, (SIDE, SIDE)).numpy()).repeat(3, axis=3)
    digits = table[:, -1].astype(np.int64)
    random = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(digits), dtype=bool)
    for digit in range(len(LABELS)):
        of_digit = random.permutation(np.flatnonzero(digits == digit))
        held_out[of_digit[: len(of_digit) // ONE_IN]] = True
    return (
        Pictures(large[~held_out], digits[~held_out]),
        Pictures(large[held_out], digits[held_out]),
    )


def trained(keras: Any, arch: str, seed: int) -> Any:
    """
    Build a network and train it, or load what the same code and settings trained before.
    """
    recipe = RECIPES[arch]
    model = _build(keras, arch)
    path = cache_folder() / "digits" / f"{arch}-{seed}-{_key(keras, arch, seed)}.npz"
    if not _load(model, path):
        _train(keras, model, recipe, seed)
        _save(model, path)
    return model


def require_accurate(arch: str, accuracy: float) -> None:
    """
    Refuse a model that did not learn.
    """
    floor = RECIPES[arch].floor
    if accuracy < floor:
        raise DoesNotHoldError(
            f"{arch}: expected an accuracy of at least {floor:.0%} on the held-out digits, got {accuracy:.2%}; "
            "choose another --seed"
        )


def write_labelled(directory: Path, held_out: Pictures) -> None:
    """
    Write the held-out pictures as PNG, in one folder for each label.
    """
    for number, (image, digit) in enumerate(zip(held_out.images, held_out.digits, strict=True)):
        folder = directory / LABELS[digit]
        folder.mkdir(exist_ok=True)
        png = tf.io.encode_png(tf.cast(image[:, :, :1], tf.uint8))
        (folder / f"{number:03d}.png").write_bytes(png.numpy())


def _key(keras: Any, arch: str, seed: int) -> str:

    settings = [arch, seed, asdict(RECIPES[arch]), keras.__version__, tf.__version__]
    parts = (Path(__file__).read_bytes(), samples.digits().read_bytes(), json.dumps(settings).encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def _build(keras: Any, arch: str) -> Any:
    shape, classes = (SIDE, SIDE, 3), len(LABELS)
    if arch == "resnet20":
        return _resnet20(keras, shape, classes)
    name = {"resnet50": "ResNet50", "resnet101": "ResNet101"}[arch]
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=classes)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # a few hundred steps are too few for Keras' 0.99
    return model


def _resnet20(keras: Any, shape: tuple[int, int, int], classes: int) -> Any:
    """
    Build the small network for CIFAR-10 of https://arxiv.org/abs/1512.03385, section 4.2, with n = 3.

    Its first convolution has a stride of 2: enlarged pictures have no more to say at 32 pixels than at 16.
    """
    layers = keras.layers

    def convolution(given: Any, filters: int, size: int, stride: int) -> Any:
        convolved = layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(given)
        return layers.BatchNormalization(momentum=0.9)(convolved)

    given = keras.Input(shape)
    features = layers.ReLU()(convolution(given, 16, 3, 2))
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            shortcut = features if stride == 1 else convolution(features, filters, 1, stride)
            inner = layers.ReLU()(convolution(features, filters, 3, stride))
            features = layers.ReLU()(layers.Add()([shortcut, convolution(inner, filters, 3, 1)]))
    pooled = layers.GlobalAveragePooling2D()(features)
    return keras.Model(given, layers.Dense(classes, activation="softmax")(pooled))


def _train(keras: Any, model: Any, recipe: Recipe, seed: int) -> None:

    training, held_out = pictures()
    answers = keras.utils.to_categorical(training.digits, len(LABELS))
    unseen = keras.applications.resnet.preprocess_input(held_out.images.copy())
    steps = -(-len(answers) // recipe.batch) * recipe.epochs
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.rate, steps)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=LABEL_SMOOTHING),
    )
    random = np.random.default_rng(seed)
    began = time.monotonic()
    for epoch in range(recipe.epochs):
        inputs = keras.applications.resnet.preprocess_input(_shifted(training.images, random))
        fitted = model.fit(inputs, answers, batch_size=recipe.batch, verbose=0)
        guesses = model.predict(unseen, batch_size=256, verbose=0).argmax(axis=1)
        log.info(
            "epoch %d of %d: loss %.3f, %.1f %% of the held-out digits right, %.0f s",
            epoch + 1,
            recipe.epochs,
            fitted.history["loss"][-1],
            100 * float((guesses == held_out.digits).mean()),
            time.monotonic() - began,
        )


def _shifted(images: Any, random: Any) -> Any:
    """
    Move each picture by a pixel or two; the digits' margins are empty.
    """
    moves = random.integers(-SHIFT, SHIFT + 1, (len(images), 2))
    return np.stack(
        [np.roll(image, move, axis=(0, 1)) for image, move in zip(images, moves.tolist(), strict=True)]
    )


def _load(model: Any, path: Path) -> bool:

    if not path.is_file():
        return False
    log.info("taking the weights trained before, %s", path.name)
    with np.load(path, allow_pickle=False) as stored:
        model.set_weights([stored[name] for name in _names(model)])
    return True


def _save(model: Any, path: Path) -> None:

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, building = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **dict(zip(_names(model), model.get_weights(), strict=True)))
        Path(building).replace(path)
    finally:
        Path(building).unlink(missing_ok=True)


def _names(model: Any) -> Iterator[str]:
    return (f"weight_{number:04d}" for number in range(len(model.get_weights())))
