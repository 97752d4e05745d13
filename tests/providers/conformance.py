"""What the conformance suite of `batchrunner.providers.base.Provider` needs from each implementation.

A new provider adds one function like `studio` here, and runs through every test of `test_conformance`.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from batchrunner import sandbox
from batchrunner.clock import LoopClock
from batchrunner.job import Job, Media
from batchrunner.manifest.fingerprint import fingerprint
from batchrunner.providers import registry
from batchrunner.providers.base import Capabilities, Provider
from batchrunner.providers.endpoint import Endpoint
from batchrunner.providers.generation_owners import GenerationOwners
from batchrunner.providers.models import ModelSpec
from batchrunner.sandbox import Fault, SandboxConfig
from batchrunner.sandbox.clips.render import RenderRequest
from tests.conftest import Inline, encoded
from tests.providers.dummy import LISTING, SILENT, SPEC, Connector, Studio, offered
from tests.scenarios.world import EPOCH

TAKES_S = 60.0  # a generation
# The faults of the suite: a busy service, a connection that ends before or after the submission counts, an invalid key,
# a failing generation.
FAULTS = ("busy", "cut", "lost", "key", "broken")


@dataclass(frozen=True)
class Case:
    """A provider beside its service, which runs.

    accepted: request ids and generation ids of accepted submissions, by the service's own account.
    image_sha256: the hex digest of the image of the latest submission, by the service's own account.
    refused_job: a job that the service does not accept. unreachable: the same client for an address where none listens.
    """

    provider: Provider
    spec: ModelSpec
    accepted: Callable[[], list[tuple[str, str]]]
    image_sha256: Callable[[], str]
    refused_job: Job
    unreachable: AbstractAsyncContextManager[Provider]

    def job(self, name: str = "a", path: Path | None = None) -> Job:
        """Make a job with a different input for each name. path: a local image."""
        return _job(self.spec, name, path)


Open = Callable[[Path, str], AbstractAsyncContextManager[Case]]


def _job(spec: ModelSpec, name: str = "a", path: Path | None = None) -> Job:
    inputs = {}
    for item in spec.inputs:
        url = f"https://example.com/{name}-{item.name}"
        inputs[item.name] = Media(item.kind, url, uri=url)
        if item.kind == "image" and path is not None:
            content = path.read_bytes()
            inputs[item.name] = Media(
                *("image", str(path), path, None, hashlib.sha256(content).hexdigest(), len(content), "image/jpeg"),
                mtime_ns=path.stat().st_mtime_ns,
            )
    params = spec.complete({})
    return Job(fingerprint(spec.name, inputs, params), spec.name, inputs, params)


@asynccontextmanager
async def aimlapi(folder: Path, fault: str, *, owned: bool = False) -> AsyncIterator[Case]:
    """Run the provider ``aimlapi`` with the sandbox. owned: behind `GenerationOwners`, as in a run."""
    kinds = {"busy": "rate_limited", "cut": "cut_before", "lost": "lost_reply", "key": "unauthorized"}
    faults = [Fault(on="submit", kind=kinds[fault], first=1)] if fault in kinds else []
    if fault == "broken":
        faults.append(Fault(on="generation", kind="error_object", first=1))
    config = SandboxConfig(
        queue_wait_s=0.0, duration_s=TAKES_S, spread=0.0, faults=tuple(faults), state_dir=folder / "sandbox"
    )
    clock, spec = LoopClock(EPOCH), registry.default_model()
    service = await sandbox.start(config, clock=clock, render=render)

    def accepted() -> list[dict[str, str]]:
        return [event for event in service.ledger() if event["event"] == "accepted"]

    try:
        async with registry.connect(Endpoint(service.url, "secret"), clock, Inline()) as client:
            yield Case(
                provider=GenerationOwners(client, ()) if owned else client,
                spec=spec,
                accepted=lambda: [(event["client_request_id"], event["generation_id"]) for event in accepted()],
                image_sha256=lambda: accepted()[-1]["image"].removeprefix("sha256:"),
                refused_job=replace(_job(spec), params={"resolution": "9p"}),
                unreachable=registry.connect(Endpoint("http://127.0.0.1:9", "secret"), clock, Inline()),
            )
    finally:
        await service.close()


async def render(request: RenderRequest) -> bytes:
    """Return a small clip with its mark."""
    return encoded(3) + request.mark


@asynccontextmanager
async def studio(folder: Path, fault: str, *, capabilities: Capabilities) -> AsyncIterator[Case]:
    """Run the provider and the service of `tests.providers.dummy`."""
    clock = LoopClock(EPOCH)
    service = Studio(clock, takes_s=TAKES_S, key="secret", lists=capabilities.find_submissions)
    service.next_faults += [fault] if fault not in {"", "key"} else []
    connect = Connector(capabilities)
    nothing = Media("image", "nothing", uri="")
    with offered():
        async with service.open() as url:
            endpoint = Endpoint(url, "other-secret" if fault == "key" else "secret")
            async with connect(endpoint, clock, Inline()) as client:
                yield Case(
                    provider=client,
                    spec=SPEC,
                    accepted=lambda: [(render.mark, str(render.number)) for render in service.renders],
                    image_sha256=lambda: _sha256_of_uri(json.loads(service.renders[-1].order)["picture"]["href"]),
                    refused_job=replace(_job(SPEC), inputs={"still": nothing}),
                    unreachable=connect(Endpoint("http://127.0.0.1:9", "secret"), clock, Inline()),
                )


def _sha256_of_uri(uri: str) -> str:
    return hashlib.sha256(base64.b64decode(uri.partition(",")[2])).hexdigest()


PROVIDERS: Mapping[str, Open] = {
    "aimlapi": aimlapi,
    "aimlapi behind generation owners": partial(aimlapi, owned=True),
    "studio": partial(studio, capabilities=LISTING),
    "studio without a list": partial(studio, capabilities=SILENT),
}
