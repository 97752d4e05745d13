"""Manifests: from YAML to a batch of jobs, or to a list of everything that is wrong.

The door is `load`. Whatever a user got wrong is a Diagnostic with a place and a cure; nothing here submits, fetches
or writes anything.
"""

from batchrunner.manifest.diagnostics.diagnostic import CODES, Diagnostic
from batchrunner.manifest.diagnostics.render import as_json, github, render
from batchrunner.manifest.loader import Batch, load
from batchrunner.manifest.schema import schema

__all__ = ["CODES", "Batch", "Diagnostic", "as_json", "github", "load", "render", "schema"]
