"""The files in a tar are found without unpacking it."""

import io
import tarfile

import pytest

from batchrunner.datasets import tar

FILES = {"a.mp4": b"a" * 513, "b.json": b"", "folder/c.mp4": b"c" * 512, f"{'p' * 120}/{'n' * 90}": b"long"}


def packed(files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    found = tar.members(io.BytesIO(content), len(content))
    return {item.name: content[item.start_bytes : item.start_bytes + item.size_bytes] for item in found}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_files_are_found_with_their_content(form: int) -> None:
    files = FILES if form == tarfile.USTAR_FORMAT else {name: FILES[name] for name in ("a.mp4", "folder/c.mp4")}
    assert read(packed(files, form)) == files


def test_a_tar_that_is_cut_or_damaged_is_a_value_error() -> None:
    content = packed(FILES)
    end = len(content.rstrip(b"\0")) + 1
    for cut in range(0, end, 256):
        with pytest.raises(ValueError, match="tar"):
            read(content[:cut])
    for place in (0, 100, 124, 130, 148, 156, 257, 400):
        damaged = bytearray(content)
        damaged[place] ^= 0x15
        with pytest.raises(ValueError, match="tar"):
            read(bytes(damaged))


def test_a_size_beyond_the_tar_is_a_value_error() -> None:
    header = bytearray(packed({"a": b""})[512:1024])
    header[124:136] = b"\x80" + (1 << 60).to_bytes(11)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    with pytest.raises(ValueError, match="longer than the tar"):
        read(bytes(header) + bytes(1024))
