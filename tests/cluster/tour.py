"""
The order in which the zero-drop proof goes through the strategies.
"""

from collections.abc import Sequence
from pathlib import Path


def every_pair(files: Sequence[Path]) -> list[Path]:
    """
    A tour that takes every ordered pair of files once, one after the other (Hierholzer, from the first file).
    """
    left = {file: [other for other in files if other != file] for file in files}
    stack, tour = [files[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            tour.append(stack.pop())
    return tour[::-1]
