"""URLs from which the service can hardly fetch a file."""

from urllib.parse import urlsplit

import pytest

from batchrunner.manifest.web_pages import is_ordinary, warning_for

PAGES = [
    "https://www.youtube.com/watch?v=abc",
    "https://youtu.be/abc",
    "https://vimeo.com/12345",
    "https://www.dropbox.com/s/abc/walk.mp4?dl=0",
    "https://www.dropbox.com/scl/fi/abc/walk.mp4?rlkey=x",
    "https://drive.google.com/file/d/abc/view",
    "https://github.com/a/b/blob/main/hero.png",
    "https://huggingface.co/datasets/a/b/blob/main/walk.mp4",
    "https://imgur.com/gallery/abc",
    "https://www.pexels.com/video/a-dog-12/",
]
PRIVATE = [
    "https://192.168.1.4/walk.mp4",
    "https://10.0.0.1/walk.mp4",
    "https://[fd00::1]/walk.mp4",
    "https://nas/walk.mp4",
    "https://media.studio.local/walk.mp4",
    "https://localhost:8443/walk.mp4",
    "https://render.corp/walk.mp4",
]
FINE = [
    "https://example.com/walk.mp4",
    "https://www.dropbox.com/s/abc/walk.mp4?dl=1",
    "https://www.dropbox.com/scl/fi/abc/walk.mp4?rlkey=x&raw=1",
    "https://dl.dropboxusercontent.com/s/abc/walk.mp4",
    "https://drive.google.com/uc?export=download&id=abc",
    "https://raw.githubusercontent.com/a/b/main/hero.png",
    "https://github.com/a/b/raw/main/hero.png",
    "https://huggingface.co/datasets/a/b/resolve/main/walk.mp4",
    "https://i.imgur.com/abc.png",
    "https://images.unsplash.com/photo-1",
    "https://videos.pexels.com/video-files/1/2.mp4",
    "https://notyoutube.com/watch?v=abc",
    "https://8.8.8.8/walk.mp4",
    "http://127.0.0.1:8080/walk.mp4",  # plain http is for the sandbox on this machine
]


@pytest.mark.parametrize("url", PAGES)
def test_a_web_page_gives_a_warning_with_a_hint(url: str) -> None:
    message, hint = warning_for(url)
    assert "web page" in message
    assert hint


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_address_gives_a_warning(url: str) -> None:
    message, hint = warning_for(url)
    assert "private address" in message
    assert hint


@pytest.mark.parametrize("url", [*PAGES, *PRIVATE])
def test_a_host_with_warnings_is_not_ordinary(url: str) -> None:
    assert not is_ordinary(urlsplit(url).hostname or "")


@pytest.mark.parametrize("host", ["example.com", "example.com.", "8.8.8.8", "notyoutube.com"])
def test_an_ordinary_host_gives_no_warning(host: str) -> None:
    assert is_ordinary(host)
    assert {warning_for(f"https://{host}/{path}") for path in ("", "watch?v=abc", "o/r/blob/x.mp4")} == {("", "")}


@pytest.mark.parametrize("url", FINE)
def test_a_file_at_a_public_address_gives_no_warning(url: str) -> None:
    assert warning_for(url) == ("", "")
