"""The link to the result, at any place in a reply."""

from typing import Any

import pytest

from batchrunner.providers.aimlapi.body import id_in_text, json_object
from batchrunner.providers.aimlapi.result_link import result_link

BASE = "https://api.example.com"
INPUT = "https://e.com/in.mp4?sig=1"
CLIP = "https://cdn.example.com/x/9"
STATUS, PICTURE = "https://api.example.com/v2/status/9", "https://e.com/a.png"


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ({"output": CLIP}, CLIP),
        ({"output": {"files": [{"href": f"  {CLIP}\n"}]}}, CLIP),
        ({"video_url": CLIP}, CLIP),
        ({"video_url": INPUT, "x": {"y": CLIP}}, CLIP),
        ({"video_url": "https://e.com/in.mp4?sig=2"}, None),
        ({"input": {"video_url": "https://e.com/copy.mp4"}, "output": CLIP}, CLIP),
        ({"video": {"url": "/files/9.mp4"}}, f"{BASE}/files/9.mp4"),
        ({"video": {"url": CLIP, "thumbnail_url": PICTURE, "file_name": "9.mp4"}}, CLIP),
        ({"output": [PICTURE, CLIP], "status_url": STATUS, "urls": {"get": STATUS, "cancel": STATUS}}, CLIP),
        ({"status_url": STATUS, "poster": PICTURE, "docs": "https://docs.example.com/a"}, None),
        ({"output": [CLIP, CLIP + "0"]}, None),
        ({"output": [CLIP, CLIP + "0.mp4"]}, CLIP + "0.mp4"),
        ({"notes": ["x"] * 20_001, "video": {"url": CLIP}}, CLIP),
        ({"url": CLIP + "0", "video": [{"url": INPUT}, {"url": CLIP}, {"url": STATUS}]}, CLIP),
        ({"video": "javascript:alert(1)"}, None),
        ({"video": "http://[::1"}, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_the_only_link_is_found_at_any_place(reply: dict[str, Any], found: str | None) -> None:
    assert result_link(reply, (INPUT,), BASE) == found


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"g","note":"caf\xe9"}',
        b'{"id":"g",}',
        b'\xef\xbb\xbf{"id":"g"}',
        b'<br />\n<b>Notice</b>: x\n{"id":"g"}\0<!-- 12 ms -->',
        b'[{"id":"g"}]',
        b'{"id":"g","note":"a\nb"}',
    ],
)
def test_a_damaged_object_is_read(body: bytes) -> None:
    assert (json_object(body) or {}).get("id") == "g"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"id":"g","status":"que', "g"),
        (b'{"id":"g', None),
        (b'{"id":12', None),
        (b'{"error":{"id":"e"},"status', None),
        (b'<html><script>{"id":"g"}</script>', None),
        (b'{"task":{"id":"g"}}', "g"),
        (b'{"rows":[{"id":"g"},{"id":"h"}]}', None),
        (b"[" * 100_000 + b'"id":"g"', "g"),
    ],
)
def test_an_id_is_found_in_the_text(body: bytes, found: str | None) -> None:
    assert id_in_text(body) == found
