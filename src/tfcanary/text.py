"""
Strings that are safe to print, and short enough for one line.
"""


def printable(text: str) -> str:
    """
    The text without what a terminal obeys (escape sequences, line breaks), or no file can hold (half a surrogate).
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def short(text: str, most: int = 200) -> str:
    """
    The text on one line, printable, and not longer than that.
    """
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"
