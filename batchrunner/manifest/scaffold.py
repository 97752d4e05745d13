"""A first manifest from what lies in a folder: videos and images found, paired, and written down with comments.

Rule: what is written validates, and nothing that stands is overwritten unasked. A file that cannot be used is left out
and named. The manifest is for a person to read and change: it says what it does, and what else could stand there.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchrunner.errors import UsageError
from batchrunner.formatting import count_text, length_text, printable
from batchrunner.job import Media
from batchrunner.manifest.ids import cleaned, stem
from batchrunner.media.probe import Kind, MediaProblem, probe

_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"), "video"),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".bmp"), "image"),
}
# Looked at only to say that they are not taken.
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
    """What lies in a folder: usable inputs in order of path, and what was left out, as sentences."""

    videos: tuple[Media, ...]
    images: tuple[Media, ...]
    left_out: tuple[str, ...]


def look(folder: Path, base: Path) -> Found:
    """The videos and images in `folder` and below it, their paths written relative to `base`. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{printable(str(folder))} is no folder", "Name the one that holds your videos and images.")
    found: dict[str, list[Media]] = {"video": [], "image": []}
    left_out: list[str] = []
    first: dict[str, str] = {}
    for path in _candidates(folder):
        shown = os.path.relpath(path, base).replace(os.sep, "/")
        kind = _ENDINGS.get(path.suffix.lower()) or _FOREIGN[path.suffix.lower()]
        if not shown.isprintable():
            left_out.append(f"{printable(shown)}: its name holds characters that are not text")
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
    """Files that look like media by their ending, sorted; hidden folders, run directories and environments are not."""
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
            hint = "Name a folder further down; for thousands of clips a pattern or a table is the better manifest."
            raise UsageError(f"{printable(str(folder))} holds more than a first manifest should name", hint)
    return sorted(paths, key=lambda path: (str(path).casefold(), str(path)))


def compose(found: Found, path: Path, folder: Path) -> tuple[str, str]:
    """The manifest's text, and in a few words how videos and images are paired.

    path: where it will stand. folder: where the media were found.

    Raises UsageError where a video or an image is missing.
    """
    missing = [kind for kind, media in (("video", found.videos), ("image", found.images)) if not media]
    if missing:
        there = _counted(found) if found.videos or found.images else "no videos and no images that can be used"
        left = f" Left out: {'; '.join(found.left_out[:3])}." if found.left_out else ""
        what = "a video (MP4, MOV, WebM, MKV, AVI) and an image (JPEG, PNG, WebP, BMP)"
        raise UsageError(f"found {there}", f"A job needs {what}; nothing was written.{left}")
    pairs = _pairs(found)
    if pairs:
        body, how = _jobs(pairs), "each video with the image of its name"
    elif len(found.images) == 1:
        body = _jobs([(video, None) for video in found.videos])
        how = "the image with the video" if len(found.videos) == 1 else "each video with the one image"
    else:
        body, how = _matrix(found), "each video with each image"
    one = found.images[0] if len(found.images) == 1 and not pairs else None
    return _HEAD.format(path=printable(str(path)), folder=named(folder), found=_counted(found)) + _defaults(
        one, found, not pairs
    ) + body, how


def _counted(found: Found) -> str:
    return f"{count_text(len(found.videos), 'video')} and {count_text(len(found.images), 'image')}"


def _pairs(found: Found) -> list[tuple[Media, Media | None]]:
    """Each video with the image of the same name, if every one has exactly one and no image is left."""
    by_stem = {stem(image.source).casefold(): image for image in found.images}
    pairs = [(video, by_stem.get(stem(video.source).casefold())) for video in found.videos]
    whole = len(by_stem) == len(found.images) == len({image.source for _, image in pairs if image}) == len(pairs)
    return list(pairs) if whole and len(pairs) > 1 else []


def _defaults(image: Media | None, found: Found, several: bool) -> str:
    lines = ["defaults:                       # for every job that does not say otherwise"]
    if image:
        lines.append(_noted(f"  image: {_text(image.source)}", _facts(image)))
    lines.append(_noted("  resolution: 480p", "480p, 580p or 720p: the price rises with it"))
    names = {(cleaned(stem(v.source)).lower(), cleaned(stem(i.source)).lower()) for v, i in _combinations(found)}
    clear = len({"-".join(pair) for pair in names}) == len(found.videos) * len(found.images)
    if not image and several and clear and all(all(pair) for pair in names):
        video, picture = (cleaned(stem(each[0].source)) for each in (found.videos, found.images))
        lines.append(_noted('  file: "{video}-{image}"', f"names the results: {video}-{picture}.mp4, …"))
    lines.append(_noted("  # num_inference_steps: 20", "more is finer, and slower"))
    return "\n".join(lines) + "\n\n"


def _combinations(found: Found) -> Iterable[tuple[Media, Media]]:
    return ((video, image) for video in found.videos for image in found.images)


def _jobs(pairs: Sequence[tuple[Media, Media | None]]) -> str:
    ids = [cleaned(stem(video.source)) for video, _ in pairs]
    named = all(ids) and len({each.lower() for each in ids}) == len(ids)
    lines = ["jobs:"]
    for name, (video, image) in zip(ids, pairs, strict=True):
        first = "  - "
        if named:
            lines.append(_noted(f"  - id: {_text(name)}", f"the clip will be {name}.mp4" if len(lines) == 1 else ""))
            first = "    "
        lines.append(_noted(f"{first}video: {_text(video.source)}", _facts(video)))
        if image:
            lines.append(_noted(f"    image: {_text(image.source)}", _facts(image)))
    return "\n".join(lines) + "\n"


def _matrix(found: Found) -> str:
    number = len(found.videos) * len(found.images)
    sums = f"{len(found.videos)} x {len(found.images)}"
    lines = [f"matrix:                         # every combination: {sums} = {count_text(number, 'job')}"]
    for key, listed, first in (("video", found.videos, "  - "), ("image", found.images, "    ")):
        lines.append(f"{first}{key}:")
        lines += [_noted(f"      - {_text(each.source)}", _facts(each)) for each in listed]
    lines += [
        "    # exclude:                  # combinations to leave out",
        f"    #   - {{video: {_text(found.videos[0].source)}, image: {_text(found.images[-1].source)}}}",
    ]
    return "\n".join(lines) + "\n"


def _noted(line: str, note: str) -> str:
    """A line with a comment beside it."""
    return f"{line:<31} # {note}" if note else line


def _facts(media: Media) -> str:
    size = f"{media.width_px}x{media.height_px}" if media.width_px else ""
    length = length_text(media.duration_s) if media.duration_s else ""
    return ", ".join(each for each in (size, length) if each)


def _text(value: str) -> str:
    """`value` as a YAML text that means just that."""
    value = value.replace("${", "$${")
    return value if _PLAIN.fullmatch(value) and not value[0].isdigit() else json.dumps(value, ensure_ascii=False)


_HEAD = """\
# Made by batchrunner init from {found} in {folder}. Change what you like; then look before you pay:
#
#   batchrunner plan {path}

version: 1
concurrency: 4                  # most generations in flight at once
# max_credits: 5000000          # a budget: nothing is submitted beyond it
# deadline: "22:00-06:00"       # when to work; run again to continue

"""


def require_free(path: Path) -> None:
    """Raises UsageError where something stands at `path`."""
    if os.path.lexists(path):
        raise UsageError(f"{printable(str(path))} is there already", "--force writes over it; -o names another file.")


def write(text: str, path: Path) -> None:
    """Write the manifest, whole or not at all. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{printable(str(path))} is a folder", "-o names the file to write.")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing could be written, nothing can be removed
            part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {printable(str(path))}: {error.strerror or error}") from None


def named(folder: Path) -> str:
    """The folder as people see it."""
    return "this folder" if str(folder) == "." else printable(str(folder))


def told(found: Found, how: str, jobs: int, path: Path, folder: Path) -> str:
    """What was done, and what to type next."""
    shown = printable(str(path))
    quoted = f"'{shown}'" if " " in shown else shown
    lines = [f"Found {_counted(found)} in {named(folder)}."]
    lines += [f"Left out: {each}" for each in found.left_out[:_MAX_LISTED]]
    if len(found.left_out) > _MAX_LISTED:
        lines.append(f"… and {len(found.left_out) - _MAX_LISTED:,} more")
    steps = (
        (f"batchrunner plan {quoted}", "what it would do, and cost; nothing is sent"),
        (f"batchrunner run {quoted} --provider sandbox --fast", "play it through, for free"),
        (f"export AIMLAPI_KEY=…; batchrunner run {quoted}", "for real"),
    )
    width = max(len(step) for step, _ in steps)
    lines += [f"Wrote {shown}: {count_text(jobs, 'job')}, {how}.", "", "Next:"]
    return "\n".join([*lines, *(f"  {step:<{width}}  # {note}" for step, note in steps)])
