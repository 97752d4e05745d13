"""Add XMP with IPTC's digital source type to an MP4, as a `uuid` box behind all others.

No byte before the box moves, so offsets in the file (stco, co64, tfra) stay right. The same clip gives the same bytes.
Layout: XMP specification part 3 (ISO 16684-1), "MPEG-4". Property: IPTC Photo Metadata Standard, Digital Source Type;
vocabulary: http://cv.iptc.org/newscodes/digitalsourcetype/.
"""

import os
from pathlib import Path

from batchrunner.media import synthetic_marks
from batchrunner.media.mp4_structure import last_box
from batchrunner.media.synthetic_marks import IPTC_NAMESPACE, XMP_UUID

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_MOST_TAIL_BYTES = 64 << 20  # what has to stay behind the new box: an index of fragments, or stray bytes
_MOST_BOX_BYTES = (1 << 32) - 1
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{namespace}">
   <Iptc4xmpExt:DigitalSourceType>{uri}</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


class XmpMarker:
    """Marks copies with XMP (`batchrunner.datasets.marking.Marker`)."""

    name = "xmp"

    def mark(self, copy: Path, source_type: str) -> str:
        """Mark the file `copy`. Return why it stays as it is, or ""."""
        with copy.open("r+b") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            if synthetic_marks.C2PA in synthetic_marks.read(file, size_bytes):
                return "it has a C2PA manifest, which a change would invalidate"
            if synthetic_marks.has_xmp(file, size_bytes):
                return "it has XMP already"
            last = last_box(file, size_bytes)
            place = last.start if last.type == b"mfra" else last.end  # mfra stays last: it is found from the end
            if size_bytes - place > _MOST_TAIL_BYTES:
                return "too many bytes follow its last box"
            file.seek(last.start)
            if file.read(4) == bytes(4):  # this box goes to the end of the file: it gets its size
                if last.end - last.start > _MOST_BOX_BYTES:
                    return "its last box names no size and has more than 4 GB"
                file.seek(last.start)
                file.write((last.end - last.start).to_bytes(4))
            file.seek(place)
            tail = file.read()
            file.seek(place)
            file.write(xmp_box(source_type) + tail)
        return ""


def xmp_box(source_type: str) -> bytes:
    """Return the box for a name of the vocabulary."""
    content = XMP_UUID + _PACKET.format(namespace=IPTC_NAMESPACE, uri=VOCABULARY + source_type).encode()
    return (len(content) + 8).to_bytes(4) + b"uuid" + content
