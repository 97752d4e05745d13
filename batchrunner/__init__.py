"""Run batches of hosted video generations: the public Python API.

`load` reads a manifest and returns a `Batch`, which can be planned and run. Everything is imported on first use, so
``import batchrunner`` stays light. Nothing inside the package imports this file, except for the version.
"""

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without an import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batchrunner.app.library import Batch, JobResult, Plan, PlannedJob, RunResult
    from batchrunner.errors import BatchrunnerError, ManifestError

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchrunnerError",
    "JobResult",
    "ManifestError",
    "Plan",
    "PlannedJob",
    "RunResult",
    "__version__",
    "load",
]


def load(
    manifest: "str | Path",
    *,
    variables: "Mapping[str, str] | None" = None,
    allowed_variables: "Sequence[str]" = (),
    environment: "Mapping[str, str] | None" = None,
    **settings: object,
) -> "Batch":
    """Read a manifest, check it with its local input files, and return the batch. Nothing is sent.

    variables: values of ``${NAME}``, like ``--set``. allowed_variables: environment variables that the manifest may
    read, like ``--env``. environment: replaces ``os.environ``; the API key and the settings ``BATCHRUNNER_*`` are read
    from it. settings: any setting of a run, such as ``provider="sandbox"``; also ``fast``, ``faults``, ``recover``,
    ``locked`` and ``shard``. They override the environment and the manifest.

    Raises ManifestError if the manifest is not valid; its ``diagnostics`` are the problems. Raises another
    BatchrunnerError for a setting, an environment or a path that cannot be used.
    """
    from batchrunner.app.library import load_batch

    return load_batch(manifest, variables or {}, allowed_variables, environment, settings)


if not TYPE_CHECKING:  # a type checker sees the imports above, and reports names that do not exist

    def __getattr__(name):
        """Import a class of the API when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from batchrunner import errors
        from batchrunner.app import library

        return getattr(errors if hasattr(errors, name) else library, name)
