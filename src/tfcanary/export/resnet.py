"""
Export ResNet50 and ResNet101 as SavedModels that TensorFlow Serving can serve and a canary can compare.

Both architectures get the same interface: ``serving_default`` takes float pictures, ``serving_preprocess``
takes encoded ones, and both answer with ``labels``, ``probabilities`` and ``class_probabilities``.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcanary.errors import DoesNotHoldError, UnreachableError, UsageError
from tfcanary.export import digits, faults, manifest, ops, savedmodel, warmup
from tfcanary.export.architectures import ARCHITECTURES, CLASS_INDEX, LABELLED

log = logging.getLogger(__name__)
SIDE = 224
CLASSES = 1000
TOP = 5
# What keeps random weights' answers apart from each other, and from certainty, over photographs as over noise.
CALIBRATION_PICTURES = 24
RESIDUAL_SCALE = 0.1
LOGIT_SPREAD = 2.5
PLAIN, NOISE, FIRST_DETAILED = 0, 1, 2
DOWNLOAD_TIMEOUT_SECONDS = 30.0
CLASS_INDEX_MD5 = "c2c37ea517e94d9795004a39431a14cb"


def export(
    *,
    arch: str,
    weights: str,
    seed: int,
    output: Path,
    version: int,
    model_name: str,
    fault: faults.Fault | None = None,
) -> Path:
    """
    Write one version of one model, whole or not at all, and return its directory.

    With digits, the held-out pictures lie beside the versions, in one folder for each label.

    Raises:
        UsageError: the version exists, or the directory cannot be written.
        UnreachableError: the published weights cannot be fetched.
        DoesNotHoldError: the model's answers are not probabilities that vary by picture.
    """
    if weights != "digits" and arch not in ARCHITECTURES:
        raise UsageError(f"--arch {arch}: expected --weights digits, got {weights}")
    target = output / str(version)
    if target.exists():
        raise UsageError(f"{target}: expected a new version, got one that exists; choose another --version")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    log.info("starting TensorFlow")
    with whole_or_nothing(target) as directory:
        write_model(
            directory,
            arch=arch,
            weights=weights,
            seed=seed,
            model_name=model_name,
            version=version,
            fault=fault,
        )
    if weights == "digits" and not (output / LABELLED).exists():
        with whole_or_nothing(output / LABELLED) as directory:
            digits.write_labelled(directory, digits.pictures()[1])
    return target


@contextlib.contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """
    Give a directory to fill; move it to `target` once it is full and on the disk.

    It is a sibling of `target`, so that the move is one rename, and its name is no number, so that a server
    which polls the base path passes over it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".exporting-{target.name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"{target.parent}: cannot write there: {error.strerror}") from error
    try:
        yield building
        umask = os.umask(0)
        os.umask(umask)
        building.chmod(0o777 & ~umask)  # mkdtemp's 0700 would shut out the server's own user
        for path in [*building.rglob("*"), building]:
            flush(path)
        if target.exists():
            raise UsageError(f"{target}: expected a new version, got one that exists; someone else wrote it")
        building.rename(target)
        flush(target.parent)
    except OSError as error:
        raise UsageError(f"{target}: cannot write it: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def flush(path: Path) -> None:
    """
    Wait until a file or directory is on the disk.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_model(
    directory: Path,
    *,
    arch: str,
    weights: str,
    seed: int,
    model_name: str,
    version: int,
    fault: faults.Fault | None = None,
) -> None:
    """
    Build the model, save it, and add its warm-up records and manifest.
    """
    keras.utils.set_random_seed(seed)
    log.info("building %s with %s weights", arch, weights)
    built = build(keras, arch, weights, seed)
    signatures = signatures_of(tf, keras, built, fault)

    if fault is None or fault.sound_answers:
        check_answers(signatures["serving_default"](images=tf.constant(built.samples)))
    accuracy = None
    if built.held_out is not None:
        accuracy = measured_accuracy(tf, signatures, built.held_out)
        log.info("%.2f %% of %d held-out pictures right", 100 * accuracy["held_out"], accuracy["pictures"])
        if fault is None:
            digits.require_accurate(arch, accuracy["held_out"])
    log.info("saving")
    module = tf.Module()
    # The variables alone: the Keras layers around them would double the time that loading takes.
    module.model_variables = [variable.value for variable in built.model.variables]
    tf.saved_model.save(module, str(directory), signatures=signatures)
    savedmodel.require_allowed(directory)
    saved = savedmodel.read(directory)
    warmup.write(tf, directory / warmup.FILE, built.warmup, model_name)
    warmup.require_replayable(tf, directory / warmup.FILE, savedmodel.interface(saved))
    if fault is not None and fault.name == "bad-warmup":
        warmup.spoil(tf, directory / warmup.FILE)
    log.info("hashing")
    manifest.write(
        directory,
        {
            "arch": arch,
            "weights": weights,
            "seed": None if weights == "imagenet" else seed,
            "version": version,
            "model_name": model_name,
            "classes": len(built.labels),
            "labels": built.about_labels,
            "accuracy": accuracy,
            "fault": None if fault is None else str(fault),
            "signatures": savedmodel.interface(saved),
            "ops": ops.used(saved),
        },
    )
    if fault is not None and fault.name == "corrupt-file":
        faults.corrupt(directory)


@dataclass(frozen=True, slots=True)
class Built:
    """
    A network, and what its export needs to know of it.

    Attributes:
        side: the height and width of its pictures.
        samples: a few pictures for which its answers must differ.
        warmup: pictures to warm it up with, as floats and encoded.
        held_out: pictures with known labels that it was not trained on.
    """

    model: Any
    side: int
    labels: list[str]
    about_labels: str
    samples: Any
    warmup: list[warmup.Example]
    held_out: digits.Pictures | None = None


def build(keras: Any, arch: str, weights: str, seed: int) -> Built:
    """
    Build, load or train the network.
    """
    if weights == "digits":
        model = digits.trained(keras, arch, seed)
        _, held_out = digits.pictures()
        few = [warmup.of_floats(image) for image in held_out.images[: warmup.LARGEST]]
        about = "the digits 0 to 9, handwritten"
        return Built(model, digits.SIDE, digits.LABELS, about, held_out.images[:8], few, held_out)
    pictures = synthetic_pictures(seed)
    few = warmup.photographs(SIDE) or [warmup.of_floats(pictures[FIRST_DETAILED])]
    if weights == "imagenet":
        model, labels = with_published_weights(keras, arch)
        about = "ImageNet class names, from Keras' class index"
    else:
        model = with_random_weights(keras, arch, pictures)
        labels = [f"class_{index:04d}" for index in range(CLASSES)]
        about = "synthetic: the weights are random, so the classes mean nothing"
    return Built(model, SIDE, labels, about, pictures[:4], few)


def measured_accuracy(tf: Any, signatures: dict[str, Any], held_out: digits.Pictures) -> dict[str, Any]:
    """
    Ask the signatures themselves for the label of each held-out picture, encoded, as a client would.
    """
    right = 0
    for start in range(0, len(held_out.digits), 64):
        images = tf.cast(held_out.images[start : start + 64], tf.uint8)
        encoded = tf.stack([tf.io.encode_png(image) for image in images])
        labels = signatures["serving_preprocess"](image_bytes=encoded)["labels"].numpy()
        wanted = [digits.LABELS[digit].encode() for digit in held_out.digits[start : start + 64]]
        right += sum(given[0] == label for given, label in zip(labels, wanted, strict=True))
    return {"held_out": right / len(held_out.digits), "pictures": len(held_out.digits)}


def synthetic_pictures(seed: int) -> Any:
    """
    Make pictures, RGB 0 to 255: a few of one colour, a few of noise, and most with detail at every scale, as in
    photographs.
    """
    random = np.random.default_rng(seed)

    def picture(index: int) -> Any:
        colour = random.uniform(0, 255, 3)
        if index % 6 == PLAIN:
            return np.broadcast_to(colour, (SIDE, SIDE, 3))
        if index % 6 == NOISE:
            return random.uniform(0, 255, (SIDE, SIDE, 3))
        detail = np.zeros((SIDE, SIDE, 3))
        for grid in (2, 4, 8, 16, 32, 64, 128):
            layer = tf.image.resize(random.normal(0, 1, (grid, grid, 3)), (SIDE, SIDE)).numpy()
            detail += layer * grid ** -random.uniform(0.3, 1.2)
        return detail / detail.std() * random.uniform(20, 80) + colour

    pictures = np.stack([picture(index) for index in range(CALIBRATION_PICTURES)])
    return np.clip(pictures, 0, 255).astype(np.float32)


def with_published_weights(keras: Any, arch: str) -> tuple[Any, list[str]]:
    """
    Load the weights that Keras publishes, and the names of their classes.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        model = getattr(keras.applications, ARCHITECTURES[arch])(weights="imagenet")
        path = keras.utils.get_file(
            "imagenet_class_index.json", CLASS_INDEX, cache_subdir="models", file_hash=CLASS_INDEX_MD5
        )
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise UnreachableError(
            f"the published weights of {arch} cannot be fetched: {error}; --weights random needs no network"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    index = json.loads(Path(path).read_text(encoding="utf-8"))
    return model, [index[str(number)][1] for number in range(CLASSES)]


def with_random_weights(keras: Any, arch: str, pictures: Any) -> Any:
    """
    Draw weights, and set what training would have set: the batch statistics and the spread of the logits.

    Without that, each of the dozens of residual blocks amplifies the activations, and the softmax names the same
    class with certainty for every picture. The blocks' last scales are set low, as is usual before training
    (https://arxiv.org/abs/1706.02677, section 5.1, has them at zero).
    """
    model = getattr(keras.applications, ARCHITECTURES[arch])(weights=None, classes=CLASSES)
    inputs = keras.applications.resnet.preprocess_input(pictures.copy())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one pass, and the moving averages are this batch's
            if layer.name.endswith("_3_bn"):
                layer.gamma.assign(np.full(layer.gamma.shape, RESIDUAL_SCALE, dtype=np.float32))
    log.info("measuring batch statistics on %d synthetic pictures", len(pictures))
    model(inputs, training=True)
    features = np.asarray(keras.Model(model.input, model.layers[-2].output)(inputs, training=False))
    kernel, _ = model.layers[-1].get_weights()
    logits = (features - features.mean(axis=0)) @ kernel
    kernel *= LOGIT_SPREAD / logits.std()
    model.layers[-1].set_weights([kernel, -features.mean(axis=0) @ kernel])
    return model


def signatures_of(tf: Any, keras: Any, built: Built, fault: faults.Fault | None) -> dict[str, Any]:
    """
    Trace the two signatures around the network.
    """
    names = tf.constant(built.labels)
    side = built.side

    def answer(images: Any) -> dict[str, Any]:
        inputs = keras.applications.resnet.preprocess_input(images)
        everything = faults.in_graph(tf, fault, built.model(inputs, training=False))
        probabilities, indices = tf.math.top_k(everything, k=TOP)
        return {
            "labels": tf.gather(names, indices),
            "probabilities": probabilities,
            "class_probabilities": everything,
        }

    def decode(encoded: Any) -> Any:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, (side, side)), (side, side, 3))

    def serving_default(images: Any) -> dict[str, Any]:
        return answer(images)

    def serving_preprocess(image_bytes: Any) -> dict[str, Any]:
        return answer(tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32))

    def traced(function: Callable[..., Any], spec: Any) -> Any:
        # Nothing here is for AutoGraph to rewrite, and it warns of what it cannot read.
        return tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()

    return {
        "serving_default": traced(
            serving_default, tf.TensorSpec((None, side, side, 3), tf.float32, name="images")
        ),
        # A name that ends in _bytes is TensorFlow Serving's convention for what REST carries as {"b64": "..."}.
        "serving_preprocess": traced(
            serving_preprocess, tf.TensorSpec((None,), tf.string, name="image_bytes")
        ),
    }


def check_answers(answers: Any) -> None:
    """
    Refuse a model whose answers could not tell one picture, or one version, from another.
    """
    everything = np.asarray(answers["class_probabilities"])
    if not np.isfinite(everything).all():
        raise DoesNotHoldError("class_probabilities: expected finite numbers, got NaN or infinity")
    off = float(np.abs(everything.sum(axis=1) - 1).max())
    if off > 1e-3:
        raise DoesNotHoldError(f"class_probabilities: expected rows that sum to 1, got one off by {off:.3g}")
    top = float(everything.max())
    if float(everything.max(axis=1).min()) > 0.999:
        raise DoesNotHoldError(f"class_probabilities: expected no certainty, got a probability of {top:.6g}")
    spread = float(everything.std(axis=0).max())
    if spread < 1e-3:
        raise DoesNotHoldError(
            f"class_probabilities: expected answers that vary by picture, got a spread of {spread:.3g}"
        )
