"""Inspect the inputs of a job, local files and data URIs, and read local files as data URIs.

`probe` and `inline` inspect the content, never the name, and decode the first picture: `inspect_file` does that in a
process with limits (`batchrunner.media.decoder_pool`). `read_data_uri` streams a local file as a base64 data URI in
constant memory, and checks that it is the probed file. Nothing here uses the network.
"""

import base64
import difflib
import errno
import hashlib
import io
import os
import re
import stat
import struct
import unicodedata
import warnings
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from pathlib import Path
from threading import Lock
from typing import IO, Any, BinaryIO, Literal, NamedTuple

from batchrunner.errors import BatchrunnerError, LocalFault
from batchrunner.job import Media
from batchrunner.media import decoder_pool, mp4_structure, playback
from batchrunner.media.decoder import FRAMES_ONLY, Allow, CheckLimit, allow_pixels, bound
from batchrunner.storage import durable_files

Kind = Literal["video", "image"]

_BLOCK_BYTES = 1 << 20
_MOST_METADATA_BYTES = 256 << 20
_DATA_URI = re.compile(r"data:([a-z]+/[a-z0-9.+-]+)((?:;[a-z0-9-]+=[a-z0-9._-]+)*);base64,", re.IGNORECASE)
# The exceptions of Pillow's decoders for broken pictures, besides OSError.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, LookupError, TypeError, ArithmeticError)


class MediaProblem(BatchrunnerError):
    """An input is missing, unreadable, or of the wrong kind."""


class _Format(NamedTuple):
    """A file format. `decoder`: its name for PyAV or Pillow, or empty if the format is known and not accepted."""

    kind: str
    mime: str
    name: str
    decoder: str


_MOV = _Format("video", "video/quicktime", "a QuickTime video", "mov")
_HEIF = _Format("image", "image/heif", "a HEIF image (HEIC or AVIF)", "")
_MP4_SOUND = _Format("sound", "audio/mp4", "an MP4 sound", "")
_JXL = _Format("image", "image/jxl", "a JPEG XL image", "")
_JP2 = _Format("image", "image/jp2", "a JPEG 2000 image", "")
_TIFF = _Format("image", "image/tiff", "a TIFF or camera raw image", "")
_MP3 = _Format("sound", "audio/mpeg", "an MP3 sound", "")
_AAC = _Format("sound", "audio/aac", "an AAC sound", "")
# Brands of ISO base media files that hold no video of the MP4 kind (ISO/IEC 23008-12, and the registry of brands).
_BRANDS: tuple[tuple[_Format, str], ...] = (
    (_HEIF, "avif avis avio MA1A MA1B heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf MiHE MiHB jpeg jpgs"),
    (_MP4_SOUND, "M4A M4B M4P F4A F4B"),
    (_JXL, "jxl"),
    (_JP2, "jp2 jpx jpm mjp2"),
    (_Format("image", "image/x-canon-cr3", "a Canon CR3 raw image", ""), "crx"),
)
# Offset, magic bytes, format: the first that fits.
_FORMATS: tuple[tuple[int, bytes, _Format], ...] = (
    *((4, b"ftyp" + brand.ljust(4).encode(), form) for form, brands in _BRANDS for brand in brands.split()),
    (4, b"ftypqt  ", _MOV),
    (4, b"ftyp", _Format("video", "video/mp4", "an MP4 video", "mp4")),
    *((4, box, _MOV) for box in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),
    (0, b"\x1aE\xdf\xa3", _Format("video", "video/x-matroska", "a Matroska video", "matroska")),
    (0, b"\xff\xd8\xff", _Format("image", "image/jpeg", "a JPEG image", "JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", _Format("image", "image/png", "a PNG image", "PNG")),
    (8, b"WEBP", _Format("image", "image/webp", "a WebP image", "WEBP")),
    (0, b"GIF8", _Format("image", "image/gif", "a GIF image", "")),
    *((0, magic, _TIFF) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"IIRO", b"IIU\0")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (0, b"\xff\x0a", _JXL),
    (0, b"\0\0\0\x0cjP  ", _JP2),
    (0, b"\xff\x4f\xff\x51", _JP2),
    (0, b"8BPS", _Format("image", "image/vnd.adobe.photoshop", "a Photoshop image", "")),
    (0, b"\x76\x2f\x31\x01", _Format("image", "image/x-exr", "an OpenEXR image", "")),
    (0, b"\0\0\1\0", _Format("image", "image/x-icon", "an icon", "")),
    (8, b"AVI ", _Format("video", "video/x-msvideo", "an AVI video", "avi")),
    (8, b"WAVE", _Format("sound", "audio/wav", "a WAV sound", "")),
    (8, b"AIFF", _Format("sound", "audio/aiff", "an AIFF sound", "")),
    (0, b"fLaC", _Format("sound", "audio/flac", "a FLAC sound", "")),
    (0, b"ID3", _MP3),
    *((0, magic, _MP3) for magic in (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")),
    *((0, magic, _AAC) for magic in (b"\xff\xf1", b"\xff\xf9")),
    (0, b"OggS", _Format("video", "video/ogg", "an Ogg file", "")),
    (0, b"FLV\x01", _Format("video", "video/x-flv", "a Flash video", "")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _Format("video", "video/x-ms-wmv", "a Windows Media file", "")),
    (0, b"\x06\x0e\x2b\x34", _Format("video", "application/mxf", "an MXF video", "")),
    (0, b"\0\0\x01\xba", _Format("video", "video/mpeg", "an MPEG program stream", "")),
    (0, b"\0\0\x01\xb3", _Format("video", "video/mpeg", "an MPEG video stream", "")),
    (0, b"%PDF", _Format("document", "application/pdf", "a PDF document", "")),
    (0, b"PK\x03\x04", _Format("archive", "application/zip", "a ZIP archive", "")),
    (0, b"\x1f\x8b", _Format("archive", "application/gzip", "a gzip archive", "")),
    (0, b"7z\xbc\xaf\x27\x1c", _Format("archive", "application/x-7z-compressed", "a 7z archive", "")),
    (0, b"Rar!", _Format("archive", "application/vnd.rar", "a RAR archive", "")),
    (0, b"version https://git-lfs", _Format("pointer", "text/plain", "a Git LFS pointer, not the file itself", "")),
)
_ISO_DECODERS = ("mp4", "mov")
_ACCEPTED = {"video": "MP4, MOV, WebM, MKV or AVI", "image": "JPEG, PNG, WebP or BMP"}


def probe(path: Path, kind: Kind, source: str | None = None) -> Media:
    """Inspect the local file `path`, meant as a video or an image. Hash it and decode its first picture.

    source: the path as people should see it. Raises MediaProblem.
    """
    shown = source or str(path)
    _require_regular(path, shown)
    try:
        with durable_files.open_plain(path, follow=True) as file:
            status = os.fstat(file.fileno())
            findings = _inspected(path, kind, shown)
            digest = hashlib.sha256()
            size_bytes = 0
            while size_bytes <= status.st_size and (block := file.read(_BLOCK_BYTES)):
                digest.update(block)
                size_bytes += len(block)
    except OSError as error:
        raise MediaProblem(f"cannot read {shown}: {error.strerror or error}") from None
    if size_bytes != status.st_size:  # also files of the kernel, which have no size
        raise MediaProblem(f"{shown} changes while it is read", "wait until it is written, or copy it first")
    return Media(
        kind=kind,
        source=shown,
        path=path,
        sha256=digest.hexdigest(),
        size_bytes=size_bytes,
        mtime_ns=status.st_mtime_ns,
        **findings,
    )


def inline(uri: str, kind: Kind) -> Media:
    """Inspect the data URI `uri`, meant as a video or an image. White space in it is ignored.

    Raises MediaProblem.
    """
    compact = "".join(uri.split())
    head = _DATA_URI.match(compact)
    if head is None:
        raise MediaProblem("not a usable data URI", f"write data:{kind}/…;base64,…")
    try:
        data = base64.b64decode(compact[head.end() :], validate=True)
    except ValueError:  # binascii.Error is one; characters beyond ASCII are another
        raise MediaProblem("the data URI is not valid base64", "encode it again; a character may be missing") from None
    source = f"data:{head.group(1).lower()};base64,… ({_size(len(data))})"
    import tempfile  # here, because few manifests have data URIs

    try:
        with tempfile.NamedTemporaryFile(prefix="batchrunner-") as file:
            file.write(data)
            file.flush()
            findings = _inspected(Path(file.name), kind, "the data URI")
    except OSError as error:
        raise MediaProblem(f"the data URI cannot be checked: {error.strerror or error}") from None
    return Media(
        kind=kind,
        source=source,
        uri=compact,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        **findings,
    )


def _size(size_bytes: int) -> str:
    """Return a size for people."""
    for unit, one in (("MB", 1_000_000), ("kB", 1_000)):
        if size_bytes >= one:
            return f"{size_bytes / one:.1f} {unit}"
    return f"{size_bytes} bytes"


def _require_regular(path: Path, shown: str) -> None:
    """Refuse all but regular files before opening: opening a FIFO would block."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise MediaProblem(f"no such file: {shown}", _similar(path)) from None
    except (OSError, ValueError) as error:
        raise MediaProblem(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise MediaProblem(f"{shown} is a directory", "name one file; in a matrix row, a pattern such as clips/*.mp4")
    if not stat.S_ISREG(mode):
        raise MediaProblem(f"{shown} is not a regular file")


def _similar(path: Path) -> str:
    """Return a hint with the most similar name in the folder, or with the missing folder."""
    if path.is_symlink():
        return "it is a link, and its target does not exist"
    try:
        names = sorted(item.name for item in path.parent.iterdir())
    except OSError:
        return f"there is no folder {path.parent}"
    same = [name for name in names if unicodedata.normalize("NFKC", name) == unicodedata.normalize("NFKC", path.name)]
    if same:  # they look alike on the screen
        return f"did you mean {same[0]!a}? The manifest has {path.name!a}"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"looked in {path.parent}"


def sniff(head: bytes) -> _Format | None:
    """Return the format of a file that starts with `head` (64 bytes are enough), or None if unknown."""
    if head.startswith(b"\x1aE\xdf\xa3") and b"webm" in head:
        return _Format("video", "video/webm", "a WebM video", "matroska")
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # two letters alone could be text
        return _Format("image", "image/bmp", "a BMP image", "BMP")
    return next((form for at, magic, form in _FORMATS if head[at : at + len(magic)] == magic), None)


def _inspected(path: Path, kind: Kind, shown: str, *, excerpt: bool = False) -> dict[str, Any]:
    """Run `inspect_file` in a worker process. Raises MediaProblem, OSError, NoDecoder."""
    item = {"path": str(path), "kind": kind, "shown": shown} | ({"excerpt": True} if excerpt else {})
    outcome = decoder_pool.pool().run_all("input", [item])[0]
    if isinstance(outcome, CheckLimit):
        hint = "try it with another copy; a file that is far larger than the service takes is not checked"
        raise MediaProblem(f"{shown} could not be checked: {outcome}", hint)
    if isinstance(outcome, BatchrunnerError):
        raise MediaProblem(outcome.message, outcome.hint)
    if isinstance(outcome, Exception):
        raise outcome
    return dict(outcome)


def inspect_copy(path: Path, kind: Kind, shown: str, *, excerpt: bool) -> dict[str, Any]:
    """Return fields of Media for a copy of an object (`inspect_file`), in a worker. Raises MediaProblem, OSError."""
    return _inspected(path, kind, shown, excerpt=excerpt)


def inspect_file(
    path: Path, kind: Kind, shown: str, allow: Allow = allow_pixels, *, excerpt: bool = False
) -> dict[str, Any]:
    """Inspect a file. Return fields of Media: mime, width_px, height_px, duration_s, frames.

    excerpt: of a large video, only the index and the first frames are in the file, and holes stand for the remainder;
    whether it is complete is not checked. allow: gets the declared size before a picture is decoded. Raises
    MediaProblem, CheckLimit, OSError.
    """
    with durable_files.open_plain(path, follow=True) as file:
        return _inspect(file, kind, shown, allow, excerpt=excerpt)


def _inspect(file: BinaryIO, kind: Kind, shown: str, allow: Allow, *, excerpt: bool) -> dict[str, Any]:
    head = file.read(64)
    if not head:
        raise MediaProblem(f"{shown} is empty")
    found = sniff(head)
    accepted = f"the {kind} may be {_ACCEPTED[kind]}"
    if found is None:
        what = "looks like text" if head.isascii() and b"\0" not in head else "has an unknown format"
        raise MediaProblem(f"{shown} {what}, not like {_a(kind)}", accepted)
    if found.kind != kind:
        swapped = bool(found.decoder)  # a GIF is accepted as neither
        raise MediaProblem(
            f"{shown} is {found.name}, given as {kind}", "are 'video' and 'image' swapped?" if swapped else accepted
        )
    if not found.decoder:
        raise MediaProblem(f"{shown} is {found.name}, which is not accepted", accepted)
    file.seek(0)
    if kind == "video":
        return {"mime": found.mime, **_inspect_video(file, found, shown, allow, excerpt=excerpt)}
    return {"mime": found.mime, **_inspect_image(file, found, shown)}


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _inspect_video(file: BinaryIO, found: _Format, shown: str, allow: Allow, *, excerpt: bool) -> dict[str, Any]:
    """Check that the clip is complete, and measure what plays. The demuxer is fixed: a file cannot select another."""
    import av
    import av.logging

    av.logging.set_level(None)  # keep the libraries' messages off standard error
    broken = f"{shown} starts like {found.name} but cannot be decoded"
    hint = "it may be truncated: copy or export it again"
    if not excerpt and (problem := _unfinished(file, found)):
        raise MediaProblem(f"{shown} is not a complete video: {problem}", hint)
    try:
        with av.open(file, mode="r", format=found.decoder, options=FRAMES_ONLY) as container:
            stream = playback.moving_stream(container)
            if stream is None:
                cover = " with a cover picture" if container.streams.video else ""
                raise MediaProblem(f"{shown} has no moving picture, only sound{cover}")
            allow(bound(stream, FRAMES_ONLY), 1)
            frame = next(container.decode(stream), None)
            if frame is None:
                raise MediaProblem(broken, hint)
            findings = {"width_px": frame.width, "height_px": frame.height}
        file.seek(0)
        with av.open(file, mode="r", format=found.decoder, options=FRAMES_ONLY) as container:
            played = playback.measure(container)
    except (CheckLimit, MemoryError):
        raise
    except (av.error.FFmpegError, EOFError, ValueError, OSError) as error:
        raise MediaProblem(f"{broken}: {getattr(error, 'strerror', None) or error}", hint) from None
    if not excerpt and (problem := playback.cut_short(played, by_header=found.decoder not in _ISO_DECODERS)):
        raise MediaProblem(f"{shown} is not a complete video: {problem}", hint)
    return {**findings, "duration_s": round(played.length_s, 3) or None, "frames": played.frames or None}


def _unfinished(file: BinaryIO, found: _Format) -> str | None:
    """Return why the container is incomplete by its own sizes, or None. Rewinds `file`."""
    size_bytes = file.seek(0, os.SEEK_END)
    try:
        if found.decoder in _ISO_DECODERS:
            return mp4_structure.check_structure(file, size_bytes, is_input=True)
        file.seek(0)
        wanted = playback.declared_bytes(file.read(1024)) or 0
        return f"it should have {wanted:,} bytes and has {size_bytes:,}" if wanted > size_bytes else None
    finally:
        file.seek(0)


def _inspect_image(file: IO[bytes], found: _Format, shown: str) -> dict[str, Any]:
    """Decode the complete picture. Pillow's warning about decompression bombs is an error here."""
    from PIL import Image, PngImagePlugin

    # Metadata may be large: this process's limits apply, not Pillow's.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MOST_METADATA_BYTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=[found.decoder]) as image:
                image.load()
                return {"width_px": image.width, "height_px": image.height}
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaProblem(
            f"{shown} holds far too many pixels", "scale it down: the service crops and resizes it anyway"
        ) from None
    except _BROKEN_IMAGE:
        broken = f"{shown} begins like {found.name} but cannot be decoded"
        raise MediaProblem(broken, "it may be cut short: copy or export it again") from None


# Errors of a file that is missing or is no longer a file. Other errors do not depend on the file.
_OF_THE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EACCES, errno.EPERM}


def data_uri_length(media: Media) -> int:
    """Return the size of the data URI that `read_data_uri` makes, bytes."""
    assert media.size_bytes is not None
    return len(_data_uri_head(media)) + 4 * ((media.size_bytes + 2) // 3)


async def read_data_uri(media: Media, executor: Executor, chunk_bytes: int = 3 << 18) -> AsyncGenerator[bytes, None]:
    """Read a probed local file as a base64 data URI, chunk by chunk, in constant memory.

    executor: opens, reads, hashes and encodes. chunk_bytes: of the file, rounded down to a multiple of 3. The last
    chunk is returned only after the whole file is hashed. Raises LocalFault before the last chunk, so a changed file
    never makes a complete body: ``input_changed`` if the file is not the one that was probed, another kind if the
    system cannot read it.
    """
    import asyncio  # here: commands that only check a manifest load neither

    from aiofiles.threadpool import wrap

    assert media.path is not None
    assert media.size_bytes is not None
    step = max(3, chunk_bytes - chunk_bytes % 3)
    loop, digest, size_bytes = asyncio.get_running_loop(), hashlib.sha256(), 0
    chunk = _data_uri_head(media)
    try:
        file = wrap(_Input(media), loop=loop, executor=executor)
        try:
            while block := await file.read(step):
                yield chunk
                size_bytes += len(block)
                if size_bytes > media.size_bytes:
                    raise _changed(media)
                chunk = await loop.run_in_executor(executor, _encoded, block, digest)
        finally:
            await file.close()
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise _changed(media, f": {error.strerror or error}") from None
        raise durable_files.fault(error, f"{media.source} could not be read") from None
    except MediaProblem as problem:
        raise _changed(media, f": {problem.message}") from None
    if digest.hexdigest() != media.sha256:
        raise _changed(media)
    yield chunk


class _Input(io.BufferedIOBase):
    """A probed file below aiofiles. The first read opens it: `aiofiles.open` leaks the file if a cancel interrupts it.

    Raises MediaProblem or LocalFault if another file is in its place.
    """

    def __init__(self, media: Media) -> None:
        self._media = media
        self._file: BinaryIO | None = None
        self._lock = Lock()  # a cancelled reader may close while a thread reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, less only at the end of the file."""
        with self._lock:
            if self.closed:
                return b""
            if self._file is None:
                self._file = self._open()
            return self._file.read(-1 if size is None else size)

    def close(self) -> None:
        """Close the file, after the read that is under way."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            super().close()

    def _open(self) -> BinaryIO:
        assert self._media.path is not None
        _require_regular(self._media.path, self._media.source)
        file = durable_files.open_plain(self._media.path, follow=True)
        if os.fstat(file.fileno()).st_size != self._media.size_bytes:
            file.close()
            raise _changed(self._media)
        return file


def _encoded(block: bytes, digest: Any) -> bytes:
    digest.update(block)
    return base64.b64encode(block)


def _data_uri_head(media: Media) -> bytes:
    return f"data:{media.mime};base64,".encode()


def _changed(media: Media, why: str = "") -> LocalFault:
    message = f"{media.source} is not the file that was checked when the run began{why}"
    hint = "as it was, --retry-failed submits it; changed, it counts as another job in the next run"
    return LocalFault("input_changed", message, hint)
