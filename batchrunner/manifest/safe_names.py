"""Names that are valid file names on every system: check them, clean them, and compare them as file systems do. Pure.

A name stands as it was typed, with its spaces and accents. Refused are characters that some systems do not allow,
names that mean something else (devices, hidden files, options), and names that change when they are stored.
"""

import re
import unicodedata

MOST_CHARACTERS = 100
_MOST_BYTES = 200  # of UTF-8; file systems allow 255, and an ending follows
_MOST_PATH = 300
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{4,99}")  # too long for a device name, and without a dot
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_SPECIAL = '<>:"/\\|?*$`;'  # not allowed on some systems, or dangerous in a shell
_AT_START, _AT_END = " .-~", " ."
# Top folders that would stand where a report does.
_REPORTS = re.compile(r"(report|results|review)\..*", re.IGNORECASE)
_FILE_ENDINGS = (".mp4", ".new")  # of clips and their temporary files


def is_plain(name: str) -> bool:
    """Return whether a name is valid, in ASCII and without a dot, as most ids are."""
    return _PLAIN.fullmatch(name) is not None


def fault(name: str, what: str = "id") -> str:
    """Return the error of a name, or an empty text."""
    if is_plain(name):
        return ""
    if not name:
        return f"the {what} is empty"
    unsafe = next(filter(_is_unsafe, name), "")
    shown = f"the {what} '{name}'"
    end = "a dot" if name[-1] == "." else "a space"
    too_long = f"the {what} is {len(name)} characters long, at most {MOST_CHARACTERS} are allowed"
    size_bytes = len(name.encode("utf-8", "surrogatepass"))
    faults = (
        (len(name) > MOST_CHARACTERS, too_long),
        (size_bytes > _MOST_BYTES, f"the {what} has {size_bytes} bytes in UTF-8, at most {_MOST_BYTES} are allowed"),
        (unsafe, f"{shown} contains {unsafe!r}, which is not safe in a file name"),
        (name[0] in _AT_START or unicodedata.combining(name[0]), f"{shown} starts with {name[0]!r}"),
        (name[-1] in _AT_END, f"{shown} ends with {end}"),
        (name.lower().endswith(".mp4"), f"{shown} ends with .mp4, which is appended anyway"),
        (_DEVICE.fullmatch(name), f"{shown} is the name of a device on Windows"),
    )
    return next((message for is_wrong, message in faults if is_wrong), "")


def path_fault(path: str) -> str:
    """Return the error of a result's name, which may have folders, or an empty text."""
    *folders, name = path.split("/")
    if len(path) > _MOST_PATH:
        return f"the file name is {len(path)} characters long, at most {_MOST_PATH} are allowed"
    for number, folder in enumerate(folders):
        if not folder:
            return f"the file name '{path}' " + ("contains an empty folder name" if number else "begins with '/'")
        if folder.lower().endswith(_FILE_ENDINGS):
            return f"the folder name '{folder}' has the ending of a file"
        if not number and _REPORTS.fullmatch(folder):
            return f"the folder name '{folder}' has the form of a report's name"
        if wrong := fault(folder, "folder name"):
            return wrong
    return fault(name, "file name")


def cleaned(name: str) -> str:
    """Return the nearest valid name, or an empty text if there is none. Each run of unsafe characters is a dash."""
    marked = "".join("\0" if _is_unsafe(character) else character for character in name[: 2 * MOST_CHARACTERS])
    plain = re.sub(r"(\.mp4)+$", "", re.sub("\0+", "\0", marked), flags=re.IGNORECASE)
    plain = plain.lstrip(f"\0{_AT_START}")[:MOST_CHARACTERS]
    plain = plain.encode("utf-8", "ignore")[:_MOST_BYTES].decode("utf-8", "ignore").rstrip(f"\0{_AT_END}")
    plain = plain.replace("\0", "-")
    if _DEVICE.fullmatch(plain):
        plain = f"job-{plain}"
    return plain if plain and not fault(plain) else ""


def cleaned_path(path: str) -> str:
    """Return the nearest valid name of a result, or an empty text if there is none."""
    clean = "/".join(filter(None, map(cleaned, path.split("/"))))
    return clean if clean and not path_fault(clean) else ""


def folded(name: str) -> str:
    """Return what is equal for names that some file system takes for one: case and the form of accents differ."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _is_unsafe(character: str) -> bool:
    return character in _SPECIAL or not character.isprintable()
