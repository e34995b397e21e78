"""
Answers that are wrong whatever the input is. One is enough, and there is no error rate.
"""

import numpy as np
import numpy.typing as npt

# Probabilities in float32, summed over a thousand classes, differ from 1 by less than this.
_ROUNDING = 1e-3


def fault_of(
    values: npt.NDArray[np.generic],
    *,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    distribution: bool = False,
) -> str:
    """
    What is wrong with an output; empty if nothing is.

    Args:
        values: the output as it was answered.
        shape: what the interface says, with -1 for a size that is left open.
        dtype: what the interface says.
        distribution: whether the last axis holds probabilities that sum to 1.
    """
    if values.dtype != np.dtype(dtype):
        return f"dtype {values.dtype} instead of {np.dtype(dtype)}"
    if len(values.shape) != len(shape) or any(
        size not in (-1, got) for got, size in zip(values.shape, shape, strict=True)
    ):
        return f"shape {values.shape} instead of {shape}"
    return _wrong_numbers(values.astype(np.float64), distribution) if values.dtype.kind == "f" else ""


def _wrong_numbers(numbers: npt.NDArray[np.float64], distribution: bool) -> str:  # noqa: FBT001 - as above
    if np.isnan(numbers).any():
        return "NaN"
    if np.isinf(numbers).any():
        return "infinite"
    if distribution and ((numbers < -_ROUNDING) | (numbers > 1 + _ROUNDING)).any():
        return "probability outside 0 and 1"
    if distribution and (abs(numbers.sum(axis=-1) - 1) > _ROUNDING).any():
        return "probabilities that do not sum to 1"
    return ""
