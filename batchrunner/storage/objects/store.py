"""The calls to one bucket, on obstore. Every failure becomes one of this program's errors here.

obstore is imported where a store is opened, so that commands without buckets neither need nor load it.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from batchrunner.errors import CallError, LocalFault, UsageError
from batchrunner.storage.objects import credentials
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.credentials import Credentials
from batchrunner.storage.objects.faults import fault_of, no_credentials

LONGEST_LINK_S = 7 * 86_400.0
MOST_CONDITIONAL_BYTES = 64_000_000  # larger files are sent in several requests, which cannot be conditional
_PIECE_BYTES = 8 << 20
_CONNECT = timedelta(seconds=5)
_ANSWER = timedelta(seconds=60)  # one request that reads
_UPLOAD = timedelta(minutes=20)  # one request that writes at most MOST_CONDITIONAL_BYTES, or reads a whole object
_ONE_WEEK = timedelta(seconds=LONGEST_LINK_S)
_MARKER = b"batchrunner has found with this object that it may write here.\n"
_OWNER = "batch"  # the attribute with the owner of a report
_INSTALL = "pip install 'batchrunner[s3]'"
OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What identifies an object's content. etag: with its quotes, as the store sends it. version: or None."""

    size: int
    etag: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """How buckets may be reached.

    environment, home: where credentials are found. allowed: the buckets that the user named. tries: of one call.
    """

    allowed: AllowedBuckets
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    home: Path = field(default_factory=lambda: Path(os.path.expanduser("~")))  # noqa: PTH111 (it never raises)
    tries: int = 4


def _library() -> Any:
    """Return obstore. Raises UsageError where it is not installed."""
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise UsageError("buckets need a library that is not installed", f"Install it: {_INSTALL}") from None
    return obstore


def open_store(address: ObjectAddress, access: Access) -> "Objects":
    """Return the bucket of `address`. Raises UsageError (not allowed, no extra), LocalFault (credentials)."""
    access.allowed.check(address)
    _library()
    if address.scheme == "s3":
        profile = credentials.find(access.environment, access.home)
        return Objects(address, partial(_s3_store, address, access, profile), profile.source)
    return Objects(address, partial(_other_store, address, access), None)


def _client(timeout: timedelta, endpoint: str = "") -> dict[str, Any]:
    """Return the options of the HTTP client. Plain http is for a store that the user names."""
    return {"allow_http": endpoint.startswith("http://"), "connect_timeout": _CONNECT, "timeout": timeout}


def _retries(access: Access) -> dict[str, Any]:
    return {"max_retries": access.tries - 1, "retry_timeout": timedelta(seconds=60)}


def _s3_store(address: ObjectAddress, access: Access, profile: credentials.Profile, timeout: timedelta) -> Any:
    config = {"region": profile.region or "us-east-1", "checksum_algorithm": "SHA256"}
    if profile.endpoint:
        config["endpoint"] = profile.endpoint
    provider = _provider(profile.source) if profile.source else None
    with _mapped(address):
        return _library().store.S3Store(
            address.bucket,
            config=config,
            client_options=_client(timeout, profile.endpoint),
            retry_config=_retries(access),
            credential_provider=provider,
        )


def _provider(source: credentials.Source) -> Callable[[], Any]:
    def current() -> dict[str, Any]:
        keys = source()
        expires = datetime.fromtimestamp(keys.expires_at, UTC) if keys.expires_at else None
        return {
            "access_key_id": keys.key_id,
            "secret_access_key": keys.secret,
            "token": keys.token,
            "expires_at": expires,
        }

    return current


def _other_store(address: ObjectAddress, access: Access, timeout: timedelta) -> Any:
    """Return a bucket of Google or Azure. obstore reads their credentials from the environment."""
    stores = _library().store
    maker = stores.GCSStore if address.scheme == "gs" else stores.AzureStore
    try:
        return maker(address.bucket, client_options=_client(timeout), retry_config=_retries(access))
    except (_library().exceptions.BaseError, ValueError, OSError):
        raise no_credentials(address) from None


class Objects:
    """One bucket. Keys are the objects' names as they are stored.

    make: makes the library's store for a time limit of one request. source: returns the current keys, or None where
    the library finds them.
    """

    def __init__(
        self, address: ObjectAddress, make: Callable[[timedelta], Any], source: credentials.Source | None
    ) -> None:
        self._address = ObjectAddress(address.scheme, address.bucket)
        self._library = _library()
        self._make = make
        self._store = make(_ANSWER)
        self._source = source

    @cached_property
    def _uploads(self) -> Any:
        return self._make(_UPLOAD)

    def __repr__(self) -> str:
        return f"Objects({self._address.place})"

    def credentials(self) -> Credentials | None:
        """Return the current keys, or None where only the library knows them. Raises LocalFault."""
        return self._source() if self._source else None

    async def head(self, key: str) -> ObjectState | None:
        """Return the state of an object, or None if the bucket has no such object. Raises CallError."""
        address = self._at(key)
        try:
            with _mapped(address):
                return _state(await self._library.head_async(self._store, key))
        except CallError as error:
            # The answer to a HEAD has no body: it does not say whether the bucket is missing, or why it refuses.
            if error.kind not in {"object_missing", "bucket_refused"}:
                raise
            return await self._first_byte(address)

    async def _first_byte(self, address: ObjectAddress) -> ObjectState | None:
        try:
            with _mapped(address):
                found = await self._library.get_async(self._store, address.key, options={"range": (0, 1)})
        except CallError as error:
            if error.kind == "object_missing":
                return None
            raise
        return _state(found.meta)  # it was written between the two calls

    async def read(self, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        """Return the bytes from `start` to before `end`. etag: refuse another content. Raises CallError."""
        with _mapped(self._at(key)):
            options: Any = {"range": (start, end)} | ({"if_match": etag} if etag else {})
            found = await self._library.get_async(self._store, key, options=options)
            return bytes(await found.bytes_async())

    async def put_new(
        self, key: str, file: Path, sha256: str, on_progress: OnProgress | None = None, content_type: str = ""
    ) -> ObjectState:
        """Upload `file` under a name that is free, and return the object's state.

        sha256: the hex digest that the file must have. An object with the same content is a success. Raises LocalFault
        ``object_differs`` if another content has the name, ``input_changed`` if the file has another digest.
        """
        if (present := await self._same(key, file, sha256)) is not None:
            return present
        attributes: dict[str, str] = {"sha256": sha256} | ({"Content-Type": content_type} if content_type else {})
        pieces = _pieces(file, sha256, on_progress)
        with _mapped(self._at(key)):
            try:
                if await _size(file) <= MOST_CONDITIONAL_BYTES:
                    body = await _joined(pieces)
                    await self._library.put_async(
                        self._uploads, key, body, mode="create", use_multipart=False, attributes=attributes
                    )
                else:
                    await self._library.put_async(
                        self._uploads,
                        key,
                        pieces,
                        use_multipart=True,
                        chunk_size=_PIECE_BYTES,
                        max_concurrency=4,
                        attributes=attributes,
                    )
            except self._library.exceptions.AlreadyExistsError:
                pass  # another process was faster: the check below compares the contents
        state = await self._same(key, file, sha256)
        if state is None:
            message = f"the object {self._at(key)} is missing after its upload"
            raise LocalFault("object_missing", message, "Run the same command again: it uploads the file again.")
        return state

    async def _same(self, key: str, file: Path, sha256: str) -> ObjectState | None:
        """Return the state of an object with the content of `file`, None without an object. Raises LocalFault."""
        state = await self.head(key)
        if state is None:
            return None
        if state.size == await _size(file) and await self.digest(key, state) == sha256:
            return state
        message = f"the object {self._at(key)} has another content than {file.name}; it was not replaced"
        raise LocalFault("object_differs", message, "Choose another prefix, or remove the object yourself.")

    async def digest(self, key: str, state: ObjectState) -> str:
        """Return the SHA-256 of an object: as its upload recorded it, or computed from all its bytes."""
        with _mapped(self._at(key)):
            found = await self._library.get_async(self._store, key, options={"head": True})
        if recorded := {name.lower(): str(value) for name, value in found.attributes.items()}.get("sha256"):
            return recorded
        computed = hashlib.sha256()
        for start in range(0, state.size, _PIECE_BYTES):
            end = min(start + _PIECE_BYTES, state.size)
            computed.update(await self.read(key, start, end, state.etag))
        return computed.hexdigest()

    async def download(self, key: str, file: BinaryIO, etag: str | None = None) -> str:
        """Write an object to an open file, and return the SHA-256 of what was written. Raises CallError.

        etag: refuse another content.
        """
        import asyncio

        digest = hashlib.sha256()
        options: Any = {"if_match": etag} if etag else {}
        with _mapped(self._at(key)):
            found = await self._library.get_async(self._uploads, key, options=options)  # with time for a large object
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
        return digest.hexdigest()

    async def put_own(self, key: str, file: Path, owner: str, content_type: str) -> None:
        """Upload a file, and replace only an object that the same owner has uploaded. Raises CallError.

        owner: ASCII text that is stored with the object. Raises LocalFault ``object_differs`` for another's object.
        """
        mode = "overwrite" if await self.has_own(key, owner) else "create"
        attributes = {_OWNER: owner, "Content-Type": content_type}
        large = await _size(file) > MOST_CONDITIONAL_BYTES
        options: Any = {"chunk_size": _PIECE_BYTES} if large else {"mode": mode}
        with _mapped(self._at(key)):
            try:
                await self._library.put_async(
                    self._uploads, key, file, use_multipart=large, attributes=attributes, **options
                )
            except self._library.exceptions.AlreadyExistsError:
                message = f"another process writes the object {self._at(key)}; it was not replaced"
                raise LocalFault("object_differs", message, "Run the same command again.") from None

    async def has_own(self, key: str, owner: str) -> bool:
        """Return whether there is an object that this owner has uploaded with `put_own`. Raises CallError.

        Raises LocalFault ``object_differs`` for another's object.
        """
        if await self.head(key) is None:
            return False
        with _mapped(self._at(key)):
            found = await self._library.get_async(self._store, key, options={"head": True})
        attributes = {name.lower(): str(value) for name, value in found.attributes.items()}
        if attributes.get(_OWNER) != owner:
            message = f"the object {self._at(key)} is not of this batch; it was not replaced"
            raise LocalFault("object_differs", message, "Choose another prefix, or remove the object yourself.")
        return True

    async def require_writable(self, key: str) -> None:
        """Write a small object, unless there is one of this name. Raises CallError if the bucket may not be written."""
        with _mapped(self._at(key)), suppress(self._library.exceptions.AlreadyExistsError):
            await self._library.put_async(self._store, key, _MARKER, mode="create", use_multipart=False)

    async def list(self, prefix: str = "") -> AsyncIterator[tuple[str, ObjectState]]:
        """Yield the keys below a folder, with their states. prefix: whole segments of keys. Raises CallError."""
        stream = self._library.list(self._store, prefix or None)
        while True:
            with _mapped(self._at(prefix)):
                try:
                    found = await anext(stream)
                except StopAsyncIteration:
                    return
            for meta in found:
                yield meta["path"], _state(meta)

    async def delete(self, key: str) -> None:
        """Remove an object; one that is missing is a success. Raises CallError."""
        with _mapped(self._at(key)):
            await self._library.delete_async(self._store, key)

    async def sign(self, key: str, lifetime: float) -> str:
        """Return a link that GETs the object, and no other method, for `lifetime` seconds (at most 7 days).

        The link is a secret while it is valid. Raises LocalFault without credentials.
        """
        with _mapped(self._at(key)):
            lasts = min(timedelta(seconds=lifetime), _ONE_WEEK)
            return str(await self._library.sign_async(self._store, "GET", key, lasts))

    def _at(self, key: str) -> ObjectAddress:
        return ObjectAddress(self._address.scheme, self._address.bucket, key)


def _state(meta: Any) -> ObjectState:
    return ObjectState(meta["size"], meta["e_tag"], meta["version"])


async def _joined(pieces: Iterator[bytes]) -> bytes:
    import asyncio

    return await asyncio.to_thread(b"".join, pieces)


async def _size(file: Path) -> int:
    import asyncio  # here: commands that only check a manifest do not load it

    return (await asyncio.to_thread(file.stat)).st_size


def _pieces(file: Path, sha256: str, on_progress: OnProgress | None) -> Iterator[bytes]:
    """Yield a file's content. Raises LocalFault before the end of a file that has another digest."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        block = opened.read(_PIECE_BYTES)
        while block:
            digest.update(block)
            following = opened.read(_PIECE_BYTES)
            if not following and digest.hexdigest() != sha256:
                raise _changed(file)
            yield block
            if on_progress:
                on_progress(len(block))
            block = following
    if digest.hexdigest() != sha256:  # an empty file has no block
        raise _changed(file)


def _changed(file: Path) -> LocalFault:
    message = f"{file} is not the file that was checked; it was not uploaded"
    return LocalFault("input_changed", message, "Run the same command again: the file is checked anew.")


@contextmanager
def _mapped(address: ObjectAddress) -> Iterator[None]:
    """Turn the library's errors into this program's. Their own text is dropped."""
    obstore = _library()
    try:
        yield
    except obstore.exceptions.AlreadyExistsError:
        raise  # put_new handles it
    except obstore.exceptions.PreconditionError:
        message = f"{address} is not the object that was checked when the run began"
        raise LocalFault("input_changed", message, "Run the same command again: the object is checked anew.") from None
    except (obstore.exceptions.BaseError, FileNotFoundError, PermissionError, OSError, ValueError) as error:
        raise fault_of(error, address) from None
