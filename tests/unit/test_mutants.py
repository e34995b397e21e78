"""
The changes that `benchmarks/mutants.py` makes to the judge, and the list of those that nothing can notice.
"""

import ast

import pytest
from mutants import EQUIVALENT, FIRST, JUDGE, OTHERS, mutants, read


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        pytest.param("a = 3", ["a = 4"], id="a number"),
        pytest.param("a = 0.5", ["a = 0.626"], id="a fraction"),
        pytest.param("a = b + c", ["a = b - c"], id="a sum"),
        pytest.param("a -= b", ["a += b"], id="a difference"),
        pytest.param("a = -b", ["a = +b"], id="a minus"),
        pytest.param("a = b <= c", ["a = b >= c"], id="a comparison"),
        pytest.param("a = b < c < d", ["a = b > c < d", "a = b < c > d"], id="a chain"),
        pytest.param("a = [True, 'b', None, c * d, e == f]", [], id="neither a number nor a sign"),
    ],
)
def test_each_number_and_each_sign_is_changed_once(source, changed):
    found = list(mutants("a", source))

    assert changed == [ast.unparse(tree) for _, _, tree in found]
    assert len(changed) == len({mutant for _, mutant, _ in found})


def test_a_change_is_named_by_its_line_and_its_place_in_it():
    (_, mutant, _) = next(mutants("terms", "def a():\n    return b, 1\n"))

    assert "('terms', 'return b, 1', 10, '1 to 2')" == str(mutant)


def test_every_module_of_the_judge_is_changed():
    assert set(FIRST) == {path.stem for path in JUDGE.glob("*.py")} - OTHERS


def test_a_change_that_nothing_can_notice_is_one_of_its_module():
    modules = {mutant.module for mutant in EQUIVALENT}

    assert set(EQUIVALENT) <= {found for module in modules for _, found, _ in mutants(module, read(module))}
