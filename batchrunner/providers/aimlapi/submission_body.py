"""The JSON body of a submission, as aiohttp sends it. Local inputs are in it as base64 data URIs.

The body is never in memory as a whole: an encoded input is mapped or read chunk by chunk. Its length is known
beforehand.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from types import MappingProxyType

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from batchrunner.errors import LocalFault
from batchrunner.job import Job, Media
from batchrunner.media import probe
from batchrunner.providers import registry

_SLICE_BYTES = 256 * 1024  # of an encoded input: one write to the socket


class SubmissionBody(aiohttp.Payload):
    """The body of one submission.

    inputs: the encoded local inputs, by name; those without a text are read chunk by chunk.
    fault: set if an input cannot be read; the body then ends before its last byte.
    complete: whether the last bytes were passed to aiohttp. Before that, the service has less JSON than Content-Length
    declares and cannot accept it, so a cut leaves nothing in doubt.
    """

    def __init__(
        self, job: Job, executor: Executor, inputs: Mapping[str, memoryview | None] = MappingProxyType({})
    ) -> None:
        super().__init__(None, content_type="application/json")
        self._executor = executor
        self._inputs: list[tuple[bytes, memoryview | Media]] = []  # the bytes before a local input, and the input
        fields = {item.name: item.field for item in registry.models()[job.model].inputs}
        document = {"model": job.model, **job.params}
        for name, media in job.inputs.items():
            if media.uri is not None:
                document[fields[name]] = media.uri
        before = json.dumps(document).encode()[:-1]
        for name, media in job.inputs.items():
            if media.uri is None:
                text = inputs.get(name)
                item = media if text is None else text
                self._inputs.append((before + f', {json.dumps(fields[name])}: "'.encode(), item))
                before = b'"'
        self._end = before + b"}"
        self.fault: LocalFault | None = None
        self.complete = False
        self.length_bytes = len(self._end) + sum(len(start) + _length(item) for start, item in self._inputs)

    @property
    def has_files(self) -> bool:
        """Whether local inputs are in the body. Without any, it is sent at once."""
        return bool(self._inputs)

    @property
    def size(self) -> int:
        """The length in bytes, for Content-Length."""
        return self.length_bytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not offered: the body is not in memory as a whole."""
        raise NotImplementedError

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body. Raises LocalFault if an input cannot be read."""
        for start, item in self._inputs:
            await writer.write(start)
            if isinstance(item, Media):
                await self._write_file(item, writer)
            else:
                for at in range(0, len(item), _SLICE_BYTES):
                    await writer.write(item[at : at + _SLICE_BYTES])
        self.complete = True
        await writer.write(self._end)

    async def _write_file(self, media: Media, writer: AbstractStreamWriter) -> None:
        try:
            async with aclosing(probe.read_data_uri(media, self._executor)) as chunks:
                async for chunk in chunks:
                    await writer.write(chunk)
        except LocalFault as fault:
            self.fault = fault
            raise


def _length(item: memoryview | Media) -> int:
    return probe.data_uri_length(item) if isinstance(item, Media) else len(item)
