"""The checks of a downloaded clip find damage and never refuse a valid clip."""

import io
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.media import decoder, mp4_structure
from batchrunner.storage import durable_files
from tests.conftest import encoded as short_clip

SOURCE = Path(__file__).parents[2] / "manifests" / "media" / "bunny.mp4"
LAYOUTS: dict[str, dict[str, str]] = {
    "index last": {},
    "index first": {"movflags": "faststart"},
    "fragmented": {"movflags": "frag_keyframe+empty_moov"},
}


def remuxed(path: Path, options: dict[str, str]) -> bytes:
    """The bundled clip's packets in another file layout."""
    with av.open(str(SOURCE)) as source, av.open(str(path), "w", format="mp4", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.read_bytes()


def encoded(path: Path, codec: str, options: dict[str, str]) -> bytes:
    """One second of the bundled clip with sound, encoded again."""
    with av.open(str(SOURCE)) as source, av.open(str(path), "w", format="mp4") as target:
        video: Any = target.add_stream(codec, rate=25, options=options)
        video.width, video.height, video.pix_fmt = 480, 480, "yuv420p"
        sound: Any = target.add_stream("aac", rate=48_000)
        for number, picture in zip(range(25), source.decode(video=0), strict=False):
            picture.pts, picture.time_base = number, Fraction(1, 25)
            target.mux(video.encode(picture))
        target.mux(video.encode())
        silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(40):
            silence.pts, silence.sample_rate, silence.time_base = 1024 * number, 48_000, Fraction(1, 48_000)
            target.mux(sound.encode(silence))
        target.mux(sound.encode())
    return path.read_bytes()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    clips = {name: remuxed(folder / "clip.mp4", options) for name, options in LAYOUTS.items()}
    clips["with sound"] = encoded(folder / "clip.mp4", "libx264", {"g": "10"})
    clips["H.265"] = encoded(folder / "clip.mp4", "libx265", {"x265-params": "log-level=none"})
    return clips


def complaint(data: bytes) -> str | None:
    return mp4_structure.check_structure(io.BytesIO(data), len(data))


def refusal(data: bytes) -> str:
    said = complaint(data)
    assert said is not None
    return said


def box_types(data: bytes) -> list[bytes]:
    at, types = 0, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        types.append(name)
        at += size
    return types


def test_valid_clips_pass(clips: dict[str, bytes]) -> None:
    assert complaint(SOURCE.read_bytes()) is None
    assert {name: complaint(data) for name, data in clips.items()} == dict.fromkeys(clips)


def test_the_layouts_match_their_names(clips: dict[str, bytes]) -> None:
    last, first = box_types(clips["index last"]), box_types(clips["index first"])
    assert last.index(b"mdat") < last.index(b"moov")
    assert first.index(b"moov") < first.index(b"mdat")
    assert b"moof" in box_types(clips["fragmented"])
    assert b"hvcC" in clips["H.265"]


@pytest.mark.parametrize("layout", ["index last", "index first", "with sound", "H.265"])
def test_every_truncation_is_found(clips: dict[str, bytes], layout: str) -> None:
    data = clips[layout]
    cuts = {*range(1, 200), *range(200, len(data), 997), *(len(data) - less for less in range(1, 100))}
    assert [cut for cut in sorted(cuts) if complaint(data[:cut]) is None] == []


def test_a_fragmented_file_cut_inside_a_box_is_found(clips: dict[str, bytes]) -> None:
    assert "needs" in refusal(clips["fragmented"][:-1])


TAILS = {
    "zeros": bytes(512),
    "newline": b"\n",
    "label": b'{"AIGC":{"Label":"1"}}',
    "page": b"<html>Not found</html>",
    "binary": b"\xff" * 64,
    "four zeros": bytes(4),
}


def odd(data: bytes) -> tuple[str, ...]:
    return mp4_structure.expectation_warnings(io.BytesIO(data), len(data))


@pytest.mark.parametrize("layout", ["index last", "index first", "fragmented", "with sound", "H.265"])
@pytest.mark.parametrize("tail", list(TAILS))
def test_bytes_after_the_last_box_are_a_warning(clips: dict[str, bytes], layout: str, tail: str) -> None:
    data = clips[layout] + TAILS[tail]
    assert complaint(data) is None
    [warning] = odd(data)
    assert warning.startswith(f"{len(TAILS[tail])} byte")
    assert odd(clips[layout]) == ()


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_last_box_without_a_size_is_a_warning(clips: dict[str, bytes], layout: str) -> None:
    data = clips[layout] + b"\0\0\0\0free" + b"x" * 20
    assert complaint(data) is None
    assert odd(data) == ("its last box 'free' names no size",)


def test_a_last_mdat_without_a_size_is_valid_if_its_samples_are_there(clips: dict[str, bytes]) -> None:
    data = bytearray(clips["index first"])
    at = data.index(b"mdat") - 4
    data[at : at + 4] = bytes(4)
    assert complaint(bytes(data)) is None
    assert odd(bytes(data)) == ("its last box 'mdat' names no size",)
    assert "reach byte" in refusal(bytes(data[:-1]))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("name", [b"moof", b"mdat", b"moov", b"free", b"udta"])
def test_a_truncated_box_is_not_trailing_data(clips: dict[str, bytes], layout: str, name: bytes) -> None:
    assert "needs" in refusal(clips[layout] + struct.pack(">I4s", 100, name) + bytes(91))


@pytest.mark.parametrize("remainder", [b"\0", b"\0\0\1", b"\0\0\1\xabmoo", bytes(4097)], ids=len)
def test_the_start_of_a_fragment_is_not_trailing_data(clips: dict[str, bytes], remainder: bytes) -> None:
    body = clips["fragmented"]
    body = body[: body.index(b"mfra") - 4]
    assert complaint(body) is None
    assert complaint(body + remainder) is not None


@pytest.mark.parametrize("layout", ["index last", "index first"])
def test_trailing_data_hides_no_truncation(clips: dict[str, bytes], layout: str) -> None:
    data = clips[layout]
    cuts = range(200, len(data), 997)
    tails = TAILS.values()
    assert [cut for cut in cuts for tail in tails if complaint(data[:cut] + tail) is None] == []


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_doubled_file_is_found(clips: dict[str, bytes], layout: str) -> None:
    assert "joined" in refusal(clips[layout] * 2)


@pytest.mark.parametrize("layout", ["index last", "index first", "H.265"])
@pytest.mark.parametrize("hole_bytes", [64, 512, 4096])
def test_zeroed_regions_are_found(clips: dict[str, bytes], layout: str, hole_bytes: int) -> None:
    data = clips[layout]
    body = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4 if layout != "index first" else len(data)
    missed = [
        at
        for at in range(body, end - hole_bytes, 3571)
        if complaint(data[:at] + bytes(hole_bytes) + data[at + hole_bytes :]) is None
    ]
    assert missed == []


def test_a_wrong_length_is_found(clips: dict[str, bytes]) -> None:
    data = bytearray(clips["index first"])
    data[data.index(b"mdat") + 6] ^= 0x40
    assert "damaged" in refusal(bytes(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"\xef\xbb\xbf\n  <?xml version='1.0'?><Error/>", "XML"),
        (b'{"message": "expired"}', "JSON"),
        (b' [{"message": "expired"}]', "JSON"),
        (b"PK\x03\x04 an archive", "are left"),
        (b"\0\0\0\x08free", "no 'ftyp'"),
    ],
)
def test_other_content_is_named(data: bytes, expected: str) -> None:
    assert expected in refusal(data)


def test_an_unexpected_size_is_reported() -> None:
    assert "7 bytes where 9 were expected" in (mp4_structure.check_structure(io.BytesIO(b"\0\0\0\x07abc"), 9) or "")


def box(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def full(name: bytes, *numbers: int) -> bytes:
    return box(name, struct.pack(f">{1 + len(numbers)}I", 0, *numbers))


def small(**changed: bytes) -> bytes:
    """A handmade file of one 5-byte picture; each box can be replaced."""
    avcc = box(b"avcC", bytes([1, 66, 0, 30, 0xFF, 0xE0, 0]))
    boxes = {
        "stsd": box(b"stsd", struct.pack(">II", 0, 1) + box(b"avc1", bytes(78) + avcc)),
        "stsz": full(b"stsz", 0, 1, 5),
        "stsc": full(b"stsc", 1, 1, 1, 1),
        "stco": full(b"stco", 1, 24),
        "hdlr": box(b"hdlr", bytes(8) + b"vide" + bytes(13)),
        "mdat": box(b"mdat", b"\0\0\0\x01\x65"),
    } | changed
    table = box(b"stbl", boxes["stsd"] + boxes["stsz"] + boxes["stsc"] + boxes["stco"])
    media = box(b"mdia", boxes["hdlr"] + box(b"minf", table))
    return box(b"ftyp", b"isom" + bytes(4)) + boxes["mdat"] + box(b"moov", box(b"trak", media))


def test_a_handmade_file_passes_in_every_legal_form() -> None:
    assert complaint(small()) is None
    assert complaint(small(stco=box(b"co64", struct.pack(">IIQ", 0, 1, 24)))) is None
    large = struct.pack(">I4sQ", 1, b"mdat", 21) + b"\0\0\0\x01\x65"
    assert complaint(small(mdat=large, stco=full(b"stco", 1, 32))) is None
    data = small()
    to_the_end = struct.pack(">I4s", 0, b"mdat") + b"\0\0\0\x01\x65"
    at = data.index(b"mdat") - 4
    whole = data[:at] + data[at + 13 :]
    offset = struct.pack(">I", len(whole) + 8)
    assert complaint(whole.replace(struct.pack(">II", 1, 24), struct.pack(">I", 1) + offset) + to_the_end) is None


HUGE = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("box_name", "content", "expected"),
    [
        ("hdlr", box(b"hdlr", bytes(8) + b"soun" + bytes(13)), "no video track"),
        ("hdlr", box(b"hdlr", bytes(4)), "too short"),
        ("hdlr", b"", "no handler"),
        ("stsd", b"", "codec description"),
        ("stsd", box(b"stsd", struct.pack(">II", 0, 1) + box(b"avc1", bytes(78))), "configuration"),
        ("stsd", box(b"stsd", struct.pack(">II", 0, 0)), "missing codec description"),
        ("stsz", b"", "no pictures"),
        ("stsz", full(b"stsz", 0, 0), "no pictures"),
        ("stsz", full(b"stsz", 0, HUGE, 5), "too short for its 4,294,967,295 numbers"),
        ("stsz", full(b"stsz", HUGE, HUGE), "should reach byte"),
        ("stsz", full(b"stsz", 1, 2), "has places for 1 of 2"),
        ("stsz", full(b"stsz", 0, 1, HUGE), "should reach byte"),
        ("stsz", full(b"stsz", 0, 1, 6), "damaged"),
        ("stsc", b"", "has places for 0 of 1"),
        ("stsc", full(b"stsc", 1, 2, 1, 1), "out of order"),
        ("stsc", full(b"stsc", 1, 0, 1, 1), "out of order"),
        ("stsc", full(b"stsc", HUGE, 1, 1, 1), "too short for"),
        ("stco", b"", "out of order"),
        ("stco", full(b"stco", 1, HUGE), "should reach byte"),
        ("stco", full(b"stco", HUGE, 24), "too short for"),
        ("mdat", box(b"mdat", b"\0\0\0\0\x65"), "damaged"),
        ("mdat", b"", "no 'mdat'"),
    ],
)
def test_contradictory_tables_are_named(box_name: str, content: bytes, expected: str) -> None:
    assert expected in refusal(small(**{box_name: content}))


def test_zero_length_boxes_are_damage() -> None:
    assert "damaged" in refusal(small(mdat=box(b"mdat", bytes(8)), stsz=full(b"stsz", 0, 1, 8)))


def test_overlapping_pictures_are_not_read_repeatedly() -> None:
    picture = b"\0\0\0\x60" + b"\x65" * 0x60
    many = small(mdat=box(b"mdat", picture), stsz=full(b"stsz", 0, 50, *[100] * 50), stco=full(b"stco", 50, *[24] * 50))
    assert "more than the file" in refusal(many)


@pytest.mark.parametrize(("bound", "reason"), [("_MAX_NAL_UNITS", "50 NAL"), ("_MAX_SAMPLE_BYTES", "too many")])
def test_work_on_pictures_is_bounded(bound: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4_structure, bound, 50)
    assert reason in refusal(SOURCE.read_bytes())


def test_absurd_counts_are_refused_before_any_work() -> None:
    assert "more than" in refusal(box(b"ftyp") + box(b"free") * 100_001)
    assert "too many" in refusal(box(b"ftyp") + box(b"mdat") + box(b"moov", bytes(65 << 20)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_raise(data: bytes) -> None:
    assert complaint(data) is not None


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6))
def test_mutated_files_never_raise(patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(small())
    for place, patch in patches:
        at = place % len(data)
        data[at : at + len(patch)] = patch
    complaint(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1500), st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f", b"trak", b"\0\0\0\x01"]))
def test_a_mutated_real_index_never_raises(at: int, patch: bytes) -> None:
    data = SOURCE.read_bytes()
    complaint(data[:at] + patch + data[at + len(patch) :])


def test_decoding_measures_size_length_and_count(tmp_path: Path) -> None:
    assert decoder.check_decodes(SOURCE) == decoder.Decoded(480, 480, 2.4, 60)
    path = tmp_path / "a: fragmented ?clip.mp4"
    remuxed(path, LAYOUTS["fragmented"])
    assert decoder.check_decodes(path) == decoder.Decoded(480, 480, 2.4, None)


def test_a_complete_clip_is_opened_once_and_no_frame_is_decoded_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remuxed(tmp_path / "clip.mp4", LAYOUTS["fragmented"])
    decodes_frames: list[bool] = []
    begun: list[None] = []
    real_open: Any = av.open

    def recording(*arguments: Any, options: dict[str, str], **named: Any) -> Any:
        decodes_frames.append(options.get("skip_frame") != "all")
        return real_open(*arguments, options=options, **named)

    def observe() -> Callable[[Any], None]:
        begun.append(None)
        return lambda _: None

    monkeypatch.setattr(av, "open", recording)
    assert decoder.check_decodes(SOURCE, observe=observe).frames == 60
    assert (decodes_frames, len(begun)) == ([False], 1)
    decoder.check_decodes(tmp_path / "clip.mp4", observe=observe)
    assert (decodes_frames[1:], len(begun)) == ([False, True], 2), "its header does not count the frames"


def test_a_playlist_in_disguise_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(SOURCE.read_bytes())
    path = tmp_path / "clip.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(ValueError, match="does not decode"):
        decoder.check_decodes(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html></html>",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        SOURCE.read_bytes()[:1000],
        SOURCE.read_bytes()[:1600] + bytes(76_000),
    ],
    ids=["empty", "page", "playlist", "cut", "zeroed"],
)
def test_an_undecodable_file_is_refused_with_a_reason(
    tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="does not decode"):
        decoder.check_decodes(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("short", [MemoryError, av.error.MemoryError(12, "Cannot allocate memory")])
def test_too_little_memory_does_not_condemn_the_clip(short: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise short

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(OSError, match="memory") as caught:
        decoder.check_decodes(SOURCE)
    fault = durable_files.fault(caught.value, "a download could not be stored")
    assert (fault.kind, fault.message) == ("too_little", "a download could not be stored: too little memory")


def plainly_decoded(path: Path) -> tuple[int, int]:
    """Return how many frames a lenient decoder gets from a clip, and how many of them are damaged."""
    with av.open(str(path), format="mp4") as container:
        frames = list(container.decode(video=0))
    return len(frames), sum(frame.is_corrupt for frame in frames)


def test_no_mutant_with_visible_damage_is_accepted(tmp_path: Path) -> None:
    content, chance, path = short_clip(8), random.Random(1), tmp_path / "mutant.mp4"
    accepted = refused = 0
    for _ in range(60):
        mutant = bytearray(content)
        at = chance.randrange(len(mutant) - 8)
        mutant[at : at + 8] = chance.choice([chance.randbytes(8), bytes([mutant[at] ^ 1, *mutant[at + 1 : at + 8]])])
        path.write_bytes(mutant)
        try:
            decoder.inspect(path, len(mutant))
        except ValueError:
            refused += 1
            continue
        accepted += 1
        assert plainly_decoded(path) == (8, 0), at
    assert refused > 20
    assert accepted, "a bit that no picture depends on does no harm"


def test_damage_after_the_first_frame_is_found(tmp_path: Path) -> None:
    content = bytearray(SOURCE.read_bytes())
    content[60_000:60_040] = bytes(value ^ 0x55 for value in content[60_000:60_040])
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert not next(container.decode(video=0)).is_corrupt
    with pytest.raises(ValueError, match="does not decode"):
        decoder.check_decodes(path)


def test_sound_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encoded(path, "libx264", {})
    decoder.check_decodes(path)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.pos is not None]
    content = bytearray(path.read_bytes())
    for at, size in places[2:]:
        content[at : at + size] = random.Random(at).randbytes(size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not decode"):
        decoder.check_decodes(path)


CODINGS = {
    "open groups": ("libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "refresh without key frames": ("libx264", {"x264-params": "intra-refresh=1:keyint=8"}),
    "interlaced": ("libx264", {"flags": "+ilme+ildct"}),
    "slices": ("libx264", {"x264-params": "slices=4"}),
    "H.265 in open groups": ("libx265", {"x265-params": "log-level=none:open-gop=1:keyint=8"}),
    "MPEG-4": ("mpeg4", {"bf": "2"}),
    "AV1": ("libsvtav1", {"preset": "12"}),
}


@pytest.mark.parametrize("name", CODINGS)
def test_valid_clips_of_many_codecs_decode(tmp_path: Path, name: str) -> None:
    codec, options = CODINGS[name]
    if codec not in av.codecs_available:
        pytest.fail(f"this FFmpeg has no {codec}")
    encoded(tmp_path / "clip.mp4", codec, options)
    assert decoder.check_decodes(tmp_path / "clip.mp4").frames == 25


def test_valid_clips_of_many_layouts_decode(tmp_path: Path, clips: dict[str, bytes]) -> None:
    for content in clips.values():
        (tmp_path / "clip.mp4").write_bytes(content)
        decoder.check_decodes(tmp_path / "clip.mp4")


def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(SOURCE)) as source, av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                shift = round(0.5 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert shown < 60
    assert decoder.check_decodes(path).frames == 60
