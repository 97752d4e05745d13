"""The marks of synthetic media are read where tools put them, and hostile bytes give no mark and no error."""

import io
import random
import struct
from pathlib import Path

import av
import pytest

from batchrunner.media import decoder, synthetic_marks
from batchrunner.media.synthetic_marks import C2PA_UUID, IPTC_NAMESPACE, XMP_UUID

URI = "http://cv.iptc.org/newscodes/digitalsourcetype/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def box(kind: bytes, *content: bytes, size: int | None = None) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", len(body) + 8 if size is None else size, kind) + body


def packet(inside: str, attributes: str = "") -> bytes:
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{IPTC_NAMESPACE}" {attributes}>'
        f'{inside}</rdf:Description></rdf:RDF></x:xmpmeta>{" " * 500}<?xpacket end="w"?>'
    ).encode()


def xmp_box(content: bytes) -> bytes:
    return box(b"uuid", XMP_UUID, content)


def c2pa_box(purpose: bytes = b"manifest") -> bytes:
    return box(b"uuid", C2PA_UUID, bytes(4), purpose, b"\0", bytes(8), box(b"jumb", box(b"jumd", b"c2pa\0")))


def keyed(*names: bytes, mdta: bytes = b"mdta", full: bool = True) -> bytes:
    """Metadata with named keys, as FFmpeg's use_metadata_tags writes it."""
    keys = b"".join(struct.pack(">I4s", len(name) + 8, mdta) + name for name in names)
    items = (box(number.to_bytes(4), box(b"data", bytes(8), b"{}")) for number in range(1, len(names) + 1))
    children = (
        box(b"hdlr", bytes(8), b"mdta", bytes(13)),
        box(b"keys", bytes(4), len(names).to_bytes(4), keys),
        box(b"ilst", *items),
    )
    return box(b"meta", bytes(4) if full else b"", *children)


DST = "Iptc4xmpExt:DigitalSourceType"
PLAIN = packet(f"<{DST}>{URI}trainedAlgorithmicMedia</{DST}>")
TUNES = box(b"ilst", box(b"----", box(b"mean", bytes(4), b"x"), box(b"name", bytes(4), b"AIGC"), box(b"data")))
HANDLER = box(b"hdlr", bytes(25))


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.total += len(content)
        return content


def read(content: bytes) -> tuple[str, ...]:
    return synthetic_marks.read(io.BytesIO(content), len(content))


@pytest.mark.parametrize(
    ("extra", "marks"),
    [
        (b"", ()),
        (xmp_box(PLAIN), ("xmp:trainedAlgorithmicMedia",)),
        (xmp_box(packet("", f'{DST}="{URI}compositeSynthetic"')), ("xmp:compositeSynthetic",)),
        (xmp_box(packet(f'<{DST} rdf:resource="{URI}digitalCapture"/>')), ("xmp:digitalCapture",)),
        (xmp_box(packet(f"<{DST}>trainedAlgorithmicMedia</{DST}>")), ("xmp:trainedAlgorithmicMedia",)),
        (xmp_box(packet(f"<{DST}>\n {URI}algorithmicMedia \n</{DST}>")), ("xmp:algorithmicMedia",)),
        (
            xmp_box(PLAIN.replace(b"Iptc4xmpExt:", b"o:").replace(b"xmlns:Iptc4xmpExt=", b"xmlns:o=")),
            ("xmp:trainedAlgorithmicMedia",),
        ),
        (xmp_box(PLAIN.decode().encode("utf-16")), ("xmp:trainedAlgorithmicMedia",)),
        (xmp_box(PLAIN + bytes(100)), ("xmp:trainedAlgorithmicMedia",)),
        (box(b"XMP_", PLAIN), ("xmp:trainedAlgorithmicMedia",)),
        (box(b"udta", box(b"XMP_", PLAIN)), ("xmp:trainedAlgorithmicMedia",)),
        (xmp_box(packet('<t:AIGC xmlns:t="http://www.tc260.org.cn/ns/AIGC/1.0/">{}</t:AIGC>')), ("aigc",)),
        (c2pa_box(), ("c2pa",)),
        (c2pa_box(b"update"), ("c2pa",)),
        (box(b"jumb", box(b"jumd", bytes(16), b"\x03c2pa\0")), ("c2pa",)),
        (box(b"moov", box(b"udta", keyed(b"other", b"AIGC"))), ("aigc",)),
        (box(b"moov", keyed(b"AIGC", full=False)), ("aigc",)),
        (box(b"moov", box(b"trak", box(b"udta", keyed(b"AIGC")))), ("aigc",)),
        (box(b"meta", bytes(4), HANDLER, TUNES), ("aigc",)),
        (box(b"moov", box(b"udta", box(b"\xa9nam", bytes(8)), xmp_box(PLAIN))), ("xmp:trainedAlgorithmicMedia",)),
        (box(b"udta", box(b"meta", bytes(4), HANDLER, box(b"ilst", box(b"AIGC", box(b"data"))))), ("aigc",)),
        (c2pa_box() + xmp_box(PLAIN) + keyed(b"AIGC"), ("aigc", "c2pa", "xmp:trainedAlgorithmicMedia")),
        # None of these is a mark:
        (c2pa_box(b"merkle"), ()),
        (xmp_box(packet("<dc:title xmlns:dc='x'>trainedAlgorithmicMedia</dc:title>")), ()),
        (xmp_box(PLAIN.replace(b"iptc.org", b"else.org")), ()),
        (xmp_box(packet(f"<{DST}>\x1b[2J</{DST}>")), ()),
        (xmp_box(packet(f"<{DST}>{URI}<b>x</b></{DST}>")), ()),
        (keyed(b"AIGCs", b"aIGC"), ()),
        (box(b"mdat", c2pa_box()), ()),
        (box(b"free", keyed(b"AIGC")), ()),
        (box(b"uuid", bytes(16), PLAIN), ()),
    ],
)
def test_marks_are_read(clip: bytes, extra: bytes, marks: tuple[str, ...]) -> None:
    assert read(clip + extra) == marks


def test_a_mark_does_not_disturb_the_check_and_is_part_of_its_result(tmp_path: Path, clip: bytes) -> None:
    (tmp_path / "clip").write_bytes(content := clip + xmp_box(PLAIN))
    assert decoder.inspect(tmp_path / "clip", len(content)).synthetic_marks == ("xmp:trainedAlgorithmicMedia",)


@pytest.mark.parametrize(
    "flags", ["use_metadata_tags", "use_metadata_tags+faststart", "use_metadata_tags+frag_keyframe"]
)
def test_the_label_that_ffmpeg_writes_is_read(tmp_path: Path, clip: bytes, flags: str) -> None:
    path = tmp_path / "labelled.mp4"
    with av.open(io.BytesIO(clip), "r") as source, av.open(path, "w", options={"movflags": flags}) as target:
        target.metadata["AIGC"] = '{"Label": "1"}'
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet_ in source.demux(source.streams.video[0]):
            if packet_.dts is not None:
                packet_.stream = stream
                target.mux(packet_)
    assert read(path.read_bytes()) == ("aigc",)


def bomb() -> bytes:
    """XML whose entities expand to a billion characters."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE x [<!ENTITY a0 "lol">{entities}]><x>&a9;</x>'.encode()


def nested(depth: int) -> bytes:
    content = keyed(b"AIGC")
    for _ in range(depth):
        content = box(b"udta", content)
    return content


@pytest.mark.parametrize(
    "content",
    [
        xmp_box(bomb()),
        xmp_box(b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'),
        xmp_box(b"<x>" * 300_000),
        xmp_box(packet(f"<{DST}>{'x' * 900_000}</{DST}>")),
        xmp_box(b""),
        box(b"uuid"),
        box(b"uuid", XMP_UUID[:5]),
        nested(1000),
        box(b"udta") * 100_000,
        box(b"meta", bytes(4), HANDLER, box(b"keys", bytes(4), b"\xff\xff\xff\xff"), box(b"ilst", bytes(400_000))),
        box(b"meta", bytes(4), HANDLER, box(b"keys", bytes(4), bytes(4), b"\0\0\0\x08mdta" * 100_000)),
        box(b"meta", bytes(2)),
        box(b"meta", size=0),
        box(b"uuid", C2PA_UUID, size=1 << 31),
        box(b"moov", box(b"udta", size=9)),
        b"",
        b"\0",
    ],
)
def test_hostile_boxes_give_no_mark_and_are_read_once(content: bytes) -> None:
    file = Counting(content)
    assert synthetic_marks.read(file, len(content)) == ()
    assert file.total < 4 * len(content) + 1000


def test_damaged_bytes_never_raise() -> None:
    content = c2pa_box() + xmp_box(PLAIN) + box(b"moov", box(b"udta", keyed(b"AIGC"))) + TUNES
    rng = random.Random(5)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 8, 255, rng.randrange(256)))
        read(bytes(damaged[: rng.randrange(len(damaged))]) if rng.random() < 0.3 else bytes(damaged))


def test_only_headers_and_short_texts_are_read(clip: bytes) -> None:
    content = clip + box(b"mdat", bytes(5_000_000)) + box(b"meta", bytes(4), HANDLER, box(b"ilst", bytes(5_000_000)))
    file = Counting(content)
    assert synthetic_marks.read(file, len(content)) == ()
    assert file.total < 10_000


def test_xmp_without_a_source_type_is_found_as_xmp(clip: bytes) -> None:
    content = clip + xmp_box(packet(""))
    assert synthetic_marks.has_xmp(io.BytesIO(content), len(content))
    assert not synthetic_marks.has_xmp(io.BytesIO(clip), len(clip))
