"""Common YAML pitfalls: unquoted text that YAML reads in an unexpected way. Pure.

The functions here take text as it was written and describe how YAML reads it. They do not decide what is correct.
`batchrunner.manifest.yaml_source.parser` calls them for each scalar. Text that the parser cannot read is handled in
`batchrunner.manifest.yaml_source.syntax_errors`.
"""

import re
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import Note

ODD = "\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff"
_ODD_EDGE = re.compile(rf"^[{ODD}]|[{ODD}]$|:[{ODD}]")
_CURLY = re.compile("^[\u2018-\u201f\u00ab\u2039]|[\u2018-\u201f\u00bb\u203a]$")
_GLUED = re.compile(r"(?!(?i:data):)([A-Za-z_]\w*):(?=[^\s/\\])(\S.*)")
_EXPONENT = re.compile(r"[-+]?\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d{1,3}")
_LEADING_ZERO = re.compile(r"[-+]?0(o[0-7]+|\d+)")


def reading(text: str, value: object) -> Note | None:
    """Return a note if YAML reads the unquoted `text` as a different `value`, else None."""
    if isinstance(value, str):
        return _of_text(text)
    if value is None:
        how = f"{text} means 'no value' in YAML" if text else "there is no value after the colon or the dash"
        return Note("yaml-null", how)
    if isinstance(value, bool):
        name = str(value).lower()
        return None if text.lower() == name else Note("yaml-boolean", f"YAML reads an unquoted {text} as {name}")
    return _of_number(text, value)


def _of_number(text: str, value: Any) -> Note | None:
    bare = text.lstrip("+-")
    if ":" in bare:
        why = f"YAML reads {text} as {value}, in base 60 like minutes and seconds"
        return Note("yaml-number", why, f"write {value}, or quote the text", "error")
    if bare[:2].lower() == "0x" and "_" not in bare:
        return None
    if bare[:1] == "0" and bare[1:2] not in ("", ".") and isinstance(value, int):
        base = "binary" if bare[1:2] in "bB" else "hexadecimal" if bare[1:2] in "xX" else "octal"
        why = f"YAML reads {text} as {base}: {value}"
        return Note("yaml-number", why, f"write the intended number: {_meant(bare, value)}", "error")
    if "_" in bare:
        why = f"{text} is the number {value} in some YAML parsers (including this one) and text in others"
        return Note("yaml-number", why, f"write {value}", "warning")
    return None


def _meant(bare: str, value: int) -> str:
    digits = bare.replace("_", "").lstrip("0")
    return f"{value} or {digits}" if digits.isdigit() and digits != str(value) else str(value)


def _of_text(text: str) -> Note | None:
    if _CURLY.search(text):
        return Note("smart-quote", "curly quotes are part of the text: use straight quotes")
    if odd := _ODD_EDGE.search(text):
        name = odd_name(odd.group().strip(":"))
        return Note("odd-space", f"the text contains {name}: use a plain space or remove it")
    if _EXPONENT.fullmatch(text):
        return Note("yaml-number", f"YAML reads {text} as text: write {_decimal(text)}")
    if _LEADING_ZERO.fullmatch(text):
        return Note("yaml-number", f"YAML reads {text} as text, because of the leading zero")
    if glued := _GLUED.fullmatch(text):
        return Note("yaml-colon", f"add a space after the colon: '{glued[1]}: {glued[2][:60]}'")
    return None


def _decimal(text: str) -> str:
    number = float(text.replace("_", ""))
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else "the number in full"


def odd_name(char: str) -> str:
    """Return the name of an unusual space character for a message."""
    return f"U+{ord(char[:1] or ' '):04X}, which is not a space in YAML"
