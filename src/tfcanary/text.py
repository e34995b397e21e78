"""
Strings that are safe to print, and short enough for one line.
"""


def printable(text: str) -> str:
    """
    Replace each character that is not printable by U+FFFD.

    Escape sequences and line breaks control a terminal, and half of a surrogate pair cannot be encoded in a file.
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def short(text: str, most: int = 200) -> str:
    """
    The string on one line, printable, and cut to `most` characters, the last of which is then an ellipsis.
    """
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"
