"""An instant service: it accepts each POST with a new id, every poll returns completed, and the clip is one file.

It is nginx with fixed answers if installed, otherwise a small asyncio protocol in a process of its own. Neither keeps
state, so only the work of the contender is measured. `cpu_s` returns the CPU time of the stand-in.
Rule: the answers have the documented form, and the clip is a complete MP4 of the requested size, so no contender
reports an error.
"""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

CLIP_BYTES = 4096
_START_S = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_NGINX = """\
daemon off; master_process off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 300s;
  client_max_body_size 64m; client_body_buffer_size 1m; default_type application/json; types {{ video/mp4 mp4; }}
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4;
  scgi_temp_path {root}/t5; open_file_cache max=100;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {clips};
    location = /v2/video/generations {{
      if ($request_method = POST) {{ return 201 '{{"id":"$request_id","status":"queued"}}'; }}
      return 200 '{{"id":"$arg_generation_id","status":"completed","video":{{"url":"http://127.0.0.1:{port}/clip.mp4"}}}}';
    }}
    location = /clip.mp4 {{ limit_rate {rate_bytes}; }}
    location = /v2/logs {{ return 200 '{{"data":[]}}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Instant:
    """A running stand-in. kind: nginx or asyncio. clip_bytes: the size of the clip that it sends."""

    url: str
    kind: str
    pid: int
    clip_bytes: int

    def cpu_s(self) -> float:
        """Return the user and system time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def instant(root: Path, clip: Path | None = None, *, rate_bytes: int = 0) -> Iterator[Instant]:
    """Start a stand-in with its files under `root`. clip: the file to serve; None for a 480p clip of CLIP_BYTES.

    rate_bytes: nginx sends at most this many bytes of a clip per second; 0 for no limit.
    """
    clips = root / "clips"
    clips.mkdir(parents=True)
    if clip is None:
        # In another process, because contenders start with the memory of this one.
        subprocess.run([sys.executable, __file__, str(clips / "clip.mp4"), str(CLIP_BYTES)], check=True)
    else:
        os.link(clip, clips / "clip.mp4")
    port = _free_port()
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx:
        (root / "nginx.conf").write_text(_NGINX.format(root=root, port=port, clips=clips, rate_bytes=rate_bytes))
        argv = [nginx, "-c", str(root / "nginx.conf"), "-e", str(root / "error.log"), "-g", "user root;"]
        argv = argv if os.geteuid() == 0 else argv[:-2]
    else:
        argv = [sys.executable, str(Path(__file__).with_name("instant_server.py")), str(port), str(clips / "clip.mp4")]
    with (root / "service.log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            _await(port, process)
            yield Instant(f"http://127.0.0.1:{port}", _kind(nginx), process.pid, (clips / "clip.mp4").stat().st_size)
        finally:
            process.terminate()
            process.wait(_START_S)


def small_clip(frames: int = 2) -> bytes:
    """Return a valid grey H.264 clip of 480 by 480 pixels and a few hundred bytes."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width = stream.height = 480
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(480, 480, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def padded(clip: bytes, size_bytes: int) -> bytes:
    """Extend the clip to a size with a `free` box at its end, which readers skip."""
    free_bytes = size_bytes - len(clip)
    if free_bytes < 8:
        raise ValueError(f"the clip has {len(clip)} bytes: too many to be padded to {size_bytes}")
    return clip + free_bytes.to_bytes(4, "big") + b"free" + bytes(free_bytes - 8)


def _kind(nginx: str | None) -> str:
    if not nginx:
        return "asyncio protocol"
    summary = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
    return f"nginx {summary.strip().rpartition('/')[2]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    sys.exit("the stand-in for the service did not start")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(padded(small_clip(), int(sys.argv[2])))
