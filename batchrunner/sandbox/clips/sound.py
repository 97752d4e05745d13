"""The reference clip's sound, in the rendered clip: copied where MP4 can hold it, encoded to AAC otherwise."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

# Codecs that every player expects in an MP4 file.
_COPIED = frozenset({"aac", "mp3", "ac3", "eac3"})


class Sound:
    """Muxes the first sound stream of the clip at `path` into `target`, shifted by -start_s. Without one: nothing."""

    def __init__(self, path: Path, target: Any, start_s: Fraction) -> None:
        import av

        self._target = target
        self._source = av.open(str(path))
        self._next: tuple[Fraction, Any] | None = None
        streams = [one for one in self._source.streams.audio if one.codec_context is not None]
        if streams:
            self._packets = self._made(streams[0], start_s)
            self._next = next(self._packets, None)

    def until(self, seconds: Fraction | None) -> None:
        """Mux all packets that begin before `seconds`; all that are left where it is None."""
        while self._next is not None and (seconds is None or self._next[0] < seconds):
            self._target.mux(self._next[1])
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the clip."""
        self._source.close()

    def _made(self, stream: Any, start_s: Fraction) -> Iterator[tuple[Fraction, Any]]:
        shift = round(start_s / stream.time_base)
        if stream.codec_context.codec.canonical_name in _COPIED:
            out = self._target.add_stream_from_template(stream)
            for packet in self._source.demux(stream):
                if packet.dts is not None and packet.pts >= shift:
                    packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, out
                    yield packet.pts * packet.time_base, packet
            return
        out = self._target.add_stream("aac", rate=stream.codec_context.sample_rate)
        out.codec_context.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        for frame in self._source.decode(stream):
            if frame.pts is not None and frame.pts >= shift:
                frame.pts -= shift
                yield from ((one.pts * one.time_base, one) for one in out.encode(frame))
        yield from ((one.pts * one.time_base, one) for one in out.encode(None))
