"""Manifests: read YAML and build a batch of jobs, or a list of all problems.

`load` is the entry point. Each user error is a Diagnostic with a place and usually a hint. Nothing in this package
submits, fetches or writes anything.
"""

from batchrunner.manifest.diagnostics.diagnostic import CODES, Diagnostic
from batchrunner.manifest.diagnostics.render import as_json, github, render
from batchrunner.manifest.loader import Batch, load
from batchrunner.manifest.schema import editor_schema, schema

__all__ = ["CODES", "Batch", "Diagnostic", "as_json", "editor_schema", "github", "load", "render", "schema"]
