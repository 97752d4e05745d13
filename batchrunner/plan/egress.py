"""The data that a run sends from this machine, and its destinations. Pure.

Only the host of a webhook is shown, because the rest of its address is a secret.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from batchrunner.job import Job, Media
from batchrunner.storage.objects.address import ObjectAddress, is_address

_OF_STAGING = {"stage", "staged", "staged_bytes"}
_OF_DELIVERY = {"deliver", "delivered"}


@dataclass(frozen=True, slots=True)
class Egress:
    """The data that leaves the machine.

    host: of the service that gets the submissions; empty for the embedded sandbox, which sends nothing.
    files, file_bytes: inputs sent as data, counted once per submission. urls: number of different URLs that the
    service is asked to fetch; url_hosts: their hosts, and buckets. variables: environment variables whose values are
    in the manifest. webhook: the host that gets the summary, None without a webhook. stage: the prefix in a bucket that
    gets staged inputs; staged, staged_bytes: these, each content counted once, whether it is there already or not.
    deliver: the prefix in a bucket that gets clips and reports; delivered: how many clips of jobs are not there yet.
    """

    host: str
    submissions: int = 0
    files: int = 0
    file_bytes: int = 0
    urls: int = 0
    url_hosts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    webhook: str | None = None
    stage: str = ""
    staged: int = 0
    staged_bytes: int = 0
    deliver: str = ""
    delivered: int = 0

    def as_facts(self) -> dict[str, Any]:
        """Return the fields, JSON-ready; those of staging and delivery only if a run does that."""
        unused = (set() if self.staged else _OF_STAGING) | (set() if self.deliver else _OF_DELIVERY)
        return {name: value for name, value in asdict(self).items() if name not in unused}


def collect(
    jobs: Iterable[Job],
    host: str,
    variables: Sequence[str],
    webhook: str | None,
    stage: str = "",
    is_staged: Callable[[Media], bool] = lambda _: False,
) -> Egress:
    """Collect the data that leaves with `jobs`, which are to be submitted. The result contains the other arguments.

    is_staged: whether an input is uploaded to `stage`.
    """
    submissions = files = file_bytes = 0
    urls: set[int] = set()  # their hashes: many URLs take much memory
    starts: set[str] = set()  # scheme and host of each URL
    staged: dict[tuple[str | None, str | None], int] = {}
    for job in jobs:
        submissions += 1
        for media in job.inputs.values():
            if is_staged(media):
                staged[media.sha256, media.mime] = media.size_bytes or 0
            elif media.uri is None or media.uri[:5].lower() == "data:":
                files += 1
                file_bytes += media.size_bytes or 0
            else:
                urls.add(hash(media.uri))
                starts.add("/".join(media.uri.split("/", 3)[:3]))
    listed = tuple(sorted(set(map(_host, starts))))
    egress = Egress(host, submissions, files, file_bytes, len(urls), listed, tuple(variables), webhook)
    return replace(egress, stage=stage, staged=len(staged), staged_bytes=sum(staged.values())) if staged else egress


def _host(url: str) -> str:
    """Return the host of a URL, or the bucket of an object's address."""
    return ObjectAddress.parse(url).place if is_address(url) else urlsplit(url).hostname or ""
