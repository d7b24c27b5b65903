"""Text of others, as names of files and what stands in them, so that it can be shown."""

import unicodedata

JOINER = "\u200d"  # of emoji, the only mark without a sign of its own that is left


def printable(text: str) -> str:
    """The text with escapes in place of what steers a terminal, ends a line or turns its order.

    Bytes of names that are not UTF-8 become escapes, too.

    Examples:
      >>> printable("a\\x1b[31m.png")
      'a\\\\x1b[31m.png'
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character == JOINER or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code < 0xDD00:  # as Python keeps the bytes of such names
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()
