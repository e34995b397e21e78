"""
What the tracks' signatures are, and whether they are the same.
"""

from collections.abc import Iterator

from tfcanary.client.answer import Interface, Signature, Tensor


def inputs_in_words(signature: Signature) -> str:
    """
    What a signature takes, in words.
    """
    found = (f"{name} {tensor_in_words(tensor)}" for name, tensor in sorted(signature.inputs.items()))
    return ", ".join(found) or "nothing"


def tensor_in_words(tensor: Tensor | None) -> str:
    """
    The type and shape of an input or output.
    """
    if tensor is None:
        return "none"
    return f"{tensor.dtype}{' of any shape' if tensor.shape is None else list(tensor.shape)}"


def difference(one: Interface, other: Interface) -> str:
    """
    Where two interfaces first differ, in words.
    """
    return next(_differences(one, other), "none")


def _differences(one: Interface, other: Interface) -> Iterator[str]:
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            yield f"signature {name} is missing on one side"
            continue
        for side in ("inputs", "outputs"):
            left, right = getattr(one[name], side), getattr(other[name], side)
            for tensor in sorted({*left, *right}):
                if left.get(tensor) != right.get(tensor):
                    yield (
                        f"{name} {side} {tensor}: {tensor_in_words(left.get(tensor))} and "
                        f"{tensor_in_words(right.get(tensor))}"
                    )
        if one[name].method != other[name].method:
            yield f"{name} method: {one[name].method or 'none'} and {other[name].method or 'none'}"
