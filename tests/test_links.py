import pytest

from batchrunner.links import expires_at


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("https://oss.example.com/v.mp4?Expires=1754465857&OSSAccessKeyId=x&Signature=y", 1754465857.0),
        ("https://tos.example.com/v.mp4?X-Tos-Date=20250805T073737Z&X-Tos-Expires=86400", 1754465857.0),
        ("https://s3.example.com/v.mp4?X-Amz-Expires=3600&X-Amz-Date=20250805T073737Z", 1754383057.0),
        ("https://cdn.example.com/generations/v.mp4", float("inf")),
        ("https://cdn.example.com/v.mp4?Expires=soon", float("inf")),
        ("https://cdn.example.com/v.mp4?X-Amz-Expires=3600", float("inf")),
        ("https://cdn.example.com/v.mp4?X-Amz-Expires=3600&X-Amz-Date=today", float("inf")),
        ("https://[broken", float("inf")),
        ("", float("inf")),
    ],
)
def test_when_a_link_ends(url: str, at: float) -> None:
    assert expires_at(url) == at
