"""
A string that a regular expression matches.
"""

import re


def example(pattern: str) -> str:
    """
    A string that the regular expression matches in full.

    It holds for patterns of characters, classes, groups, alternatives and repetitions, with anchors at the ends. For
    others it may not match, and the caller must test it.
    """
    text, rest = _alternatives(pattern)
    return text if not rest else text + rest


def _alternatives(pattern: str) -> tuple[str, str]:
    """
    The first of the alternatives up to the closing parenthesis, and what follows it.
    """
    made = ""
    while pattern and pattern[0] not in "|)":
        atom, pattern = _atom(pattern)
        quantifier = re.match(r"[*+?]\??|\{(\d+)[^}]*\}\??", pattern)
        times = 1
        if quantifier:
            pattern = pattern[quantifier.end() :]
            times = int(quantifier[1]) if quantifier[1] else 1
        made += atom * times
    depth = 0
    while pattern and not (pattern[0] == ")" and depth == 0):
        step = 2 if pattern[0] == "\\" else 1
        depth += {"(": 1, ")": -1}.get(pattern[0], 0)
        pattern = pattern[step:]
    return made, pattern[1:]


def _atom(pattern: str) -> tuple[str, str]:
    """
    A string for the first atom of the pattern, and the pattern after it.
    """
    if group := re.match(r"\((\?(P?<\w+>|[a-zA-Z-]*:)|\?[a-zA-Z]+(?=\)))?", pattern):
        return _alternatives(pattern[group.end() :])
    if characters := re.match(r"\[\^?\]?(\\.|[^\]\\])*\]", pattern):
        allowed = re.compile(characters[0])
        alphabet = "a1-_ A." + "".join(map(chr, range(33, 127)))
        fitting = next((character for character in alphabet if allowed.fullmatch(character)), "")
        return fitting, pattern[characters.end() :]
    if escaped := re.match(r"\\(.)", pattern):
        classes = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "b": "", "A": "", "z": ""}
        return classes.get(escaped[1], escaped[1]), pattern[2:]
    return {".": "x", "^": "", "$": ""}.get(pattern[0], pattern[0]), pattern[1:]
