"""What a run sends away from this machine, and where to. Pure.

Rule: a webhook is told by its host alone: the rest of its address is a secret.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from batchrunner.job import Job


@dataclass(frozen=True, slots=True)
class Egress:
    """What leaves the machine.

    host: of the service, which gets the submissions; empty for the embedded sandbox, to which nothing leaves.
    files, file_bytes: inputs sent as data, counted for each submission that holds them. urls: different URLs that the
    service is asked to fetch; url_hosts: their hosts. variables: of the environment, whose values stand in the
    manifest. webhook: the host that gets the summary, None where no webhook is set.
    """

    host: str
    submissions: int = 0
    files: int = 0
    file_bytes: int = 0
    urls: int = 0
    url_hosts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    webhook: str | None = None

    def as_facts(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def collect(jobs: Iterable[Job], host: str, variables: Sequence[str], webhook: str | None) -> Egress:
    """What leaves with `jobs`, which are to be submitted. The other arguments stand in the result as they are."""
    submissions = files = file_bytes = 0
    urls: set[str] = set()
    for job in jobs:
        submissions += 1
        for media in (job.video, job.image):
            if media.uri is None or media.uri[:5].lower() == "data:":
                files += 1
                file_bytes += media.size_bytes or 0
            else:
                urls.add(media.uri)
    hosts = tuple(sorted({urlsplit(each).hostname or "" for each in urls}))
    return Egress(host, submissions, files, file_bytes, len(urls), hosts, tuple(variables), webhook)
