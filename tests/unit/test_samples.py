"""
Sample data of scikit-learn, where it is installed and where it is not.
"""

import importlib.util
from collections.abc import Callable

import pytest

from tfcanary import samples
from tfcanary.client.pictures import default_pictures
from tfcanary.errors import UsageError


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def test_two_photographs_and_the_digits_are_files() -> None:
    photographs = samples.photographs()

    assert ["china.jpg", "flower.jpg"] == [path.name for path in photographs]
    assert all(path.read_bytes().startswith(b"\xff\xd8") for path in photographs)
    assert samples.digits().is_file()


@pytest.mark.usefixtures("without")
def test_without_scikit_learn_there_are_no_photographs() -> None:
    assert [] == samples.photographs()


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("wanted", [samples.digits, default_pictures])
def test_without_scikit_learn_the_extra_is_named(wanted: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"got none.*the extra `models`"):
        wanted()
