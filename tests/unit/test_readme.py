"""
What the README says of the files beside it.
"""

import re

from tfcanary.paths import ROOT


def test_the_table_names_every_values_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| values file | what the gateway does |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = set()
    for name in re.findall(r"`([^`]+)`", " ".join(cells)):
        folder, _, choices = name.partition("{")
        named |= {f"{folder}{choice}" for choice in choices.rstrip("}").split(",")}

    values = ROOT / "values"
    assert {str(file.relative_to(values).with_suffix("")) for file in values.rglob("*.yaml")} == named
