"""Create a first manifest from the videos and images in a folder: find, pair and write them with comments.

The manifest that is written is valid. An existing file is not overwritten without --force. Unusable files are left out
and listed. The manifest is meant to be read and edited: comments explain what it does and what the alternatives are.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchrunner.errors import UsageError
from batchrunner.formatting import count_text, is_utf8, length_text, printable, shell_path, shell_quoted
from batchrunner.job import Media
from batchrunner.manifest.ids import stem
from batchrunner.manifest.safe_names import cleaned, folded
from batchrunner.media.probe import Kind, MediaProblem, probe

_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"), "video"),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".bmp"), "image"),
}
# Formats that are found only to report that they are not supported.
_FOREIGN: dict[str, Kind] = {
    **dict.fromkeys((".mpg", ".mpeg", ".wmv", ".flv", ".ogv"), "video"),
    **dict.fromkeys((".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"), "image"),
}
_MAX_LOOKED_AT = 200_000
_MAX_MEDIA = 1_000
_MAX_LISTED = 30
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./()+@=, -]*(?<! )", re.ASCII)


@dataclass(frozen=True, slots=True)
class Found:
    """The media of a folder: usable inputs in order of path, and a reason for each file that was left out."""

    videos: tuple[Media, ...]
    images: tuple[Media, ...]
    left_out: tuple[str, ...]


def scan(folder: Path, base: Path) -> Found:
    """Find the videos and images in `folder` and below it, with paths relative to `base`. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(
            f"{printable(str(folder))} is not a folder", "Name the folder that contains your videos and images."
        )
    found: dict[str, list[Media]] = {"video": [], "image": []}
    left_out: list[str] = []
    first: dict[str, str] = {}
    for path in _candidates(folder):
        shown = os.path.relpath(path, base).replace(os.sep, "/")
        kind = _ENDINGS.get(path.suffix.lower()) or _FOREIGN[path.suffix.lower()]
        if not shown.isprintable():
            is_text = is_utf8(shown)
            why = "contains control characters" if is_text else "is not valid UTF-8"
            left_out.append(f"{printable(shown) if is_text else shell_quoted(shown)}: its name {why}")
            continue
        try:
            media = probe(path, kind, shown)
        except MediaProblem as problem:
            left_out.append(printable(problem.message))
            continue
        same = first.setdefault(f"{kind} {media.sha256}", shown)
        if same != shown:
            left_out.append(f"{shown} is the same file as {same}")
            continue
        found[kind].append(media)
    return Found(tuple(found["video"]), tuple(found["image"]), tuple(left_out))


def _candidates(folder: Path) -> list[Path]:
    """Return the files with a media extension, sorted; skip hidden folders, run directories and environments."""
    paths: list[Path] = []
    seen = 0
    for here, folders, names in os.walk(folder):
        if ".batchrunner" in folders or "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "node_modules")
        seen += len(names) + len(folders)
        known = _ENDINGS.keys() | _FOREIGN.keys()
        paths += [Path(here, name) for name in names if Path(name).suffix.lower() in known and not name.startswith(".")]
        if seen > _MAX_LOOKED_AT or len(paths) > _MAX_MEDIA:
            hint = "Name a subfolder. For thousands of clips, write a manifest with a pattern or a table."
            raise UsageError(f"{printable(str(folder))} contains more than a first manifest should list", hint)
    return sorted(paths, key=lambda path: (str(path).casefold(), str(path)))


def compose(found: Found, path: Path, folder: Path) -> tuple[str, str]:
    """Return the manifest's text, and a short description of how videos and images are paired.

    path: where it will be written. folder: where the media were found.

    Raises UsageError if there is no video or no image.
    """
    missing = [kind for kind, media in (("video", found.videos), ("image", found.images)) if not media]
    if missing:
        there = _counted(found) if found.videos or found.images else "no usable videos or images"
        left = f" Left out: {'; '.join(found.left_out[:3])}." if found.left_out else ""
        what = "a video (MP4, MOV, WebM, MKV, AVI) and an image (JPEG, PNG, WebP, BMP)"
        raise UsageError(f"found {there}", f"A job needs {what}; nothing was written.{left}")
    pairs = _pairs(found)
    if pairs:
        body, how = _jobs(pairs), "each video with the image of the same name"
    elif len(found.images) == 1:
        body = _jobs([(video, None) for video in found.videos])
        how = "the image with the video" if len(found.videos) == 1 else "each video with the one image"
    else:
        body, how = _matrix(found), "each video with each image"
    one = found.images[0] if len(found.images) == 1 and not pairs else None
    return _HEAD.format(
        path=shell_quoted(shell_path(str(path))), folder=named(folder), found=_counted(found)
    ) + _defaults(one, found, not pairs) + body, how


def _counted(found: Found) -> str:
    return f"{count_text(len(found.videos), 'video')} and {count_text(len(found.images), 'image')}"


def _pairs(found: Found) -> list[tuple[Media, Media | None]]:
    """Pair each video with the image of the same name, if that uses every video and every image exactly once."""
    by_stem = {stem(image.source).casefold(): image for image in found.images}
    pairs = [(video, by_stem.get(stem(video.source).casefold())) for video in found.videos]
    whole = len(by_stem) == len(found.images) == len({image.source for _, image in pairs if image}) == len(pairs)
    return list(pairs) if whole and len(pairs) > 1 else []


def _defaults(image: Media | None, found: Found, several: bool) -> str:
    lines = ["defaults:                       # for every job that does not set another value"]
    if image:
        lines.append(_noted(f"  image: {_text(image.source)}", _properties(image)))
    lines.append(_noted("  resolution: 480p", "480p, 580p or 720p; a higher one costs more"))
    names = {(cleaned(stem(v.source)), cleaned(stem(i.source))) for v, i in _combinations(found)}
    clear = len({folded("-".join(pair)) for pair in names}) == len(found.videos) * len(found.images)
    if not image and several and clear and all(all(pair) for pair in names):
        video, picture = (cleaned(stem(item[0].source)) for item in (found.videos, found.images))
        lines.append(_noted('  file: "{video}-{image}"', f"names the results: {video}-{picture}.mp4, …"))
    lines.append(_noted("  # num_inference_steps: 20", "more steps give finer results and take longer"))
    return "\n".join(lines) + "\n\n"


def _combinations(found: Found) -> Iterable[tuple[Media, Media]]:
    return ((video, image) for video in found.videos for image in found.images)


def _jobs(pairs: Sequence[tuple[Media, Media | None]]) -> str:
    ids = [cleaned(stem(video.source)) for video, _ in pairs]
    named = all(ids) and len({folded(item) for item in ids}) == len(ids)
    lines = ["jobs:"]
    for name, (video, image) in zip(ids, pairs, strict=True):
        first = "  - "
        if named:
            lines.append(_noted(f"  - id: {_text(name)}", f"the clip will be {name}.mp4" if len(lines) == 1 else ""))
            first = "    "
        lines.append(_noted(f"{first}video: {_text(video.source)}", _properties(video)))
        if image:
            lines.append(_noted(f"    image: {_text(image.source)}", _properties(image)))
    return "\n".join(lines) + "\n"


def _matrix(found: Found) -> str:
    number = len(found.videos) * len(found.images)
    sums = f"{len(found.videos)} x {len(found.images)}"
    lines = [f"matrix:                         # every combination: {sums} = {count_text(number, 'job')}"]
    for key, listed, first in (("video", found.videos, "  - "), ("image", found.images, "    ")):
        lines.append(f"{first}{key}:")
        lines += [_noted(f"      - {_text(item.source)}", _properties(item)) for item in listed]
    lines += [
        "    # exclude:                  # combinations to leave out",
        f"    #   - {{video: {_text(found.videos[0].source)}, image: {_text(found.images[-1].source)}}}",
    ]
    return "\n".join(lines) + "\n"


def _noted(line: str, note: str) -> str:
    """Return a line with a trailing comment."""
    return f"{line:<31} # {note}" if note else line


def _properties(media: Media) -> str:
    size = f"{media.width_px}x{media.height_px}" if media.width_px else ""
    length = length_text(media.duration_s) if media.duration_s else ""
    return ", ".join(item for item in (size, length) if item)


def _text(value: str) -> str:
    """Return `value` as YAML text, quoted if necessary."""
    value = value.replace("${", "$${")
    return value if _PLAIN.fullmatch(value) and not value[0].isdigit() else json.dumps(value, ensure_ascii=False)


_HEAD = """\
# Created by batchrunner init from {found} in {folder}. Edit it, then check it before you pay:
#
#   batchrunner plan {path}

version: 1
concurrency: 4                  # most generations in flight at once
# max_cost: 5USD                # a budget: nothing is submitted beyond it
# deadline: "22:00-06:00"       # when to work; a later run continues

"""


def require_free(path: Path) -> None:
    """Raise UsageError if `path` exists."""
    if os.path.lexists(path):
        raise UsageError(f"{printable(str(path))} already exists", "--force overwrites it; -o names another file.")


def write(text: str, path: Path) -> None:
    """Write the manifest atomically. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{printable(str(path))} is a folder", "-o names the file to write.")
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # nothing may have been written
            partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write {printable(str(path))}: {error.strerror or error}") from None


def named(folder: Path) -> str:
    """Return the folder's name for messages."""
    return "this folder" if str(folder) == "." else printable(str(folder))


def report(found: Found, how: str, jobs: int, path: Path, folder: Path) -> str:
    """Return a text that says what was written and which commands come next."""
    shown = printable(str(path))
    quoted = shell_quoted(shell_path(str(path)))
    lines = [f"Found {_counted(found)} in {named(folder)}."]
    lines += [f"Left out: {item}" for item in found.left_out[:_MAX_LISTED]]
    if len(found.left_out) > _MAX_LISTED:
        lines.append(f"… and {len(found.left_out) - _MAX_LISTED:,} more")
    steps = (
        (
            f"batchrunner plan {quoted}",
            "jobs and cost; submits nothing, and asks for prices and balance if a key is set",
        ),
        (f"batchrunner run {quoted} --provider sandbox --fast", "a rehearsal, free of charge"),
        (f"export AIMLAPI_KEY=…; batchrunner run {quoted}", "the real run"),
    )
    width = max(len(step) for step, _ in steps)
    lines += [f"Wrote {shown}: {count_text(jobs, 'job')}, {how}.", "", "Next:"]
    return "\n".join([*lines, *(f"  {step:<{width}}  # {note}" for step, note in steps)])
