"""Decode a manifest's bytes to text that YAML accepts, or report what is wrong with them. Pure.

A manifest is UTF-8, with or without a byte order mark. JSON is accepted as well, including its two escapes for one
character. This module does not interpret the text.
"""

import re

from batchrunner.manifest.diagnostics.diagnostic import START, Findings, end_of

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# JSON can write a character above U+FFFF as two escapes. YAML does not support that.
_PAIR = re.compile(r"((?<!\\)(?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
_UTF16 = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\0\0\xfe\xff", "UTF-32"))


def decode(data: bytes, findings: Findings) -> str | None:
    """Return the text in `data`, or None if YAML does not accept it."""
    wide = next((name for start, name in _UTF16 if data.startswith(start)), None)
    if wide:
        findings.error("encoding", START, f"the manifest is {wide} text, not UTF-8", "save it as UTF-8")
        return None
    if data.startswith(b"PK\x03\x04"):
        hint = "save the sheet as CSV UTF-8 and run the .csv file"
        findings.error("encoding", START, "the manifest is a ZIP archive, such as an Excel workbook", hint)
        return None
    findings.text = data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _not_utf8(data, error.start, findings)
        return None
    odd = _UNPRINTABLE.search(text)
    if odd:
        name = f"U+{ord(odd.group()):04X}"
        findings.error(
            "control-character", end_of(text[: odd.start()]), f"YAML does not allow the character {name}", "remove it"
        )
        return None
    if "\\u" in text and text.lstrip()[:1] in ("{", "["):
        text = _PAIR.sub(_one_escape, text)
        findings.text = text
    return text


def _not_utf8(data: bytes, at: int, findings: Findings) -> None:
    offset = at + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
    place = end_of(data[:offset].decode("utf-8-sig", "replace"))
    message = f"byte {offset:,} of the manifest, 0x{data[offset]:02X}, is not UTF-8 text"
    meant = data[offset : offset + 1].decode("cp1252", "replace")
    hint = f"in Windows-1252 it would be {meant}: save the file as UTF-8" if meant.isalpha() else "save it as UTF-8"
    findings.error("encoding", place, message, hint)


def _one_escape(found: "re.Match[str]") -> str:
    high, low = int(found[2], 16), int(found[3], 16)
    return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"
