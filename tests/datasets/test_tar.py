"""The files in a tar are found without unpacking it."""

import io
import tarfile
from typing import Literal

import pytest

from batchrunner.datasets import tar

FILES = {"a.mp4": b"a" * 513, "b.json": b"", "folder/c.mp4": b"c" * 512, f"{'p' * 120}/{'n' * 90}": b"long"}


def packed(files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    found = tar.members(io.BytesIO(content), len(content))
    return {
        item.name: content[item.start_bytes : item.start_bytes + item.size_bytes] for item in found if not item.problem
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_files_are_found_with_their_content(form: int) -> None:
    assert read(packed(FILES, form, link="link")) == FILES


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


def single(name: str, kind: bytes = tarfile.REGTYPE, form: Literal[0, 1, 2] = tarfile.USTAR_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "t" * (120 if form != tarfile.USTAR_FORMAT else 5)
    return info.tobuf(form) + bytes(1024)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("../x.mp4", tarfile.REGTYPE, "its path has '..'"),
        ("a/../../x.mp4", tarfile.REGTYPE, "its path has '..'"),
        ("../folder", tarfile.DIRTYPE, "its path has '..'"),
        ("/etc/x.mp4", tarfile.REGTYPE, "its path is absolute"),
        (f"{'n' * 60}/{'m' * 60}/../../../x", tarfile.REGTYPE, "its path has '..'"),
        ("link", tarfile.SYMTYPE, "it is a symbolic link"),
        ("link", tarfile.LNKTYPE, "it is a hard link"),
        ("disk", tarfile.BLKTYPE, "it is a device"),
        ("pipe", tarfile.FIFOTYPE, "it is a pipe"),
        ("odd", b"Z", "it is of an unknown type"),
    ],
)
def test_a_member_that_is_not_safe_to_unpack_has_a_problem(
    name: str, kind: bytes, problem: str, form: Literal[0, 1, 2]
) -> None:
    content = single(name, kind, form)
    (found,) = tar.members(io.BytesIO(content), len(content))
    assert (found.name.rstrip("/"), found.problem) == (name, problem)


@pytest.mark.parametrize("name", [".", "folder", "./folder"])
def test_a_folder_is_no_file_and_no_problem(name: str) -> None:
    content = single(name, tarfile.DIRTYPE)
    assert not list(tar.members(io.BytesIO(content), len(content)))


@pytest.mark.parametrize("record", [b"x", b"99 path=a\n", b"8 path=\n5"])
def test_a_damaged_pax_header_is_a_value_error(record: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    content = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + single("a")
    with pytest.raises(ValueError, match="pax header"):
        list(tar.members(io.BytesIO(content), len(content)))
