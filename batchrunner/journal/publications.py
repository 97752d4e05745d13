"""Files that get their names between two commits of the journal.

The first commit stores whose file it is, so a name without a record is never ours. The second stores the record of the
job, after the name is on the disk. The journal's thread does all of it: one hand-over of work for each clip, and one
pair of commits for all clips that arrive together. The files themselves are not handled here.
"""

from collections.abc import Callable, Sequence
from typing import final

from batchrunner.errors import LocalFault
from batchrunner.job import PlacedFile, Record
from batchrunner.journal import rows
from batchrunner.journal.statements import PUT_FILE, Bulk, Change, saved


@final
class Publication:
    """A file that gets its name.

    name, placed: the name, and the content and job of the file. paths: its path until then, and its path with this
    name. record: of its job from then on, None to store none. publish: gives files their names; called in the journal's
    thread with all publications of a commit, and returns a fault for all of them. fault: set where a step after the
    first commit failed.
    """

    def __init__(
        self,
        name: str,
        placed: PlacedFile,
        paths: tuple[str, str],
        record: Record | None,
        publish: "Callable[[Sequence[Publication]], LocalFault | None]",
    ) -> None:
        self.name = name
        self.placed = placed
        self.paths = paths
        self.publish = publish
        self.fault: LocalFault | None = None
        self.change: Change = (PUT_FILE, rows.file_row(name, placed))
        self.further = saved(record) if record is not None else []


def put_all(
    items: Sequence[Change | Bulk | Publication],
    put: Callable[[list[Change | Bulk]], LocalFault | None],
) -> LocalFault | None:
    """Commit the changes and the owners of files, let the files get their names, and commit their records.

    put: commits durably. Returns a fault of the first commit, which is one for all items. Later faults go to the
    publications.
    """
    publications = [item for item in items if type(item) is Publication]  # isinstance would be a call for each item
    if (fault := put([item.change if type(item) is Publication else item for item in items])) is not None:
        return fault
    for publish in dict.fromkeys(item.publish for item in publications):
        group = [item for item in publications if item.publish == publish]
        fault = publish(group)
        for item in group:
            item.fault = fault
    done = [item for item in publications if item.fault is None]
    changes: list[Change | Bulk] = [change for item in done for change in item.further]
    if changes and (fault := put(changes)) is not None:
        for item in done:
            item.fault = fault
    return None
