"""The format `parquet`: clips and inputs inside Parquet files, as Hugging Face reads them. It needs pyarrow.

::

    data/train-00000-of-00002.parquet

`video`, `character` and `reference` are structs of `bytes` and `path`. The schema's metadata give their types to
Hugging Face. Row groups are small, because reader and writer have a whole one in memory. A page index finds a row in
its group. Pages end where the content says, so equal rows give equal pages in another version of the data set. The
bytes depend on pyarrow's version, which the files name. A split without clips has no file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from batchrunner.datasets import features
from batchrunner.datasets.formats import (
    FormatOptions,
    MediaRefused,
    Unit,
    checked_chunks,
    clean_row,
    json_line,
    recipe_of,
)
from batchrunner.datasets.items import CHARACTER, REFERENCE, Dataset, Dtype, Item, MediaFile
from batchrunner.datasets.shards import media_bytes, shards
from batchrunner.errors import UsageError

_CLIP = "video"
_ROW_GROUP_BYTES, _ROW_GROUP_ROWS = 16_000_000, 100  # of media
_MOST_BYTES = 2_000_000_000  # of a file: a page has less than 2 GiB
_DIGITS = 5
_LAYOUT = 1  # of the files; a new number writes units anew that an interrupted export has


class ParquetFormat:
    """See the module. Raises UsageError if pyarrow is not installed."""

    name = "parquet"

    def __init__(self, options: FormatOptions) -> None:
        self._version = _pyarrow().__version__
        self._shard_bytes = options.shard_bytes

    def units(self, dataset: Dataset) -> Iterator[Unit]:
        """Yield the files of each split."""
        table = _Table(dataset)
        for split in dataset.splits:
            total = sum(1 for _ in shards(dataset.items(split), media_bytes, self._shard_bytes))
            for number, items in enumerate(shards(dataset.items(split), media_bytes, self._shard_bytes)):
                name = f"data/{split}-{number:0{_DIGITS}}-of-{total:0{_DIGITS}}.parquet"
                recipe = recipe_of(_LAYOUT, self._version, table.described(), _recipe(items))
                yield Unit(name, recipe, partial(table.write, items), sum(map(media_bytes, items)), len(items))

    def data_files(self, split: str) -> str:
        """Return the pattern of a split's files."""
        digits = "[0-9]" * _DIGITS
        return f"data/{split}-{digits}-of-{digits}.parquet"

    def features(self, dataset: Dataset) -> Mapping[str, Dtype]:
        """Return nothing: the files state their types."""
        return {}


def _pyarrow() -> Any:
    """Return pyarrow. Raises UsageError if it is not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        message = "--format parquet needs the package pyarrow, which is not installed"
        raise UsageError(message, "Install it: pip install 'batchrunner[parquet]'") from None
    assert pa.parquet is parquet
    return pa


class _Table:
    """Columns and schema of all files of a data set. media: kind of each column of files, by name."""

    def __init__(self, dataset: Dataset) -> None:
        suffixes = features.suffixes_of_roles(dataset)
        roles = {role: suffixes.get(role, set()) for role in (CHARACTER, REFERENCE, *dataset.roles)}
        self._columns: Mapping[str, Dtype] = clean_row(dataset.columns)
        self._names = {role: role if role not in self._columns else f"{role}_input" for role in roles}
        kinds = {self._names[role]: features.kind_of_role(role, found) for role, found in roles.items()}
        self._media: Mapping[str, str] = {_CLIP: "video", **kinds}

    def described(self) -> Any:
        """Return what determines the schema, ready for JSON."""
        return [*self._media.items(), *self._columns.items()]

    def _schema(self, arrow: Any) -> Any:
        kinds: dict[str, Dtype] = {**self._media, **self._columns}
        info = {"info": {"features": {name: features.as_json(kind) for name, kind in kinds.items()}}}
        metadata = {"huggingface": json.dumps(info, ensure_ascii=False, separators=(",", ":"))}
        return arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in kinds.items()], metadata)

    def write(self, items: tuple[Item, ...], to: BinaryIO) -> None:
        """Write a file with these items. Raises MediaRefused, OSError."""
        arrow = _pyarrow()
        schema = self._schema(arrow)
        writer = arrow.parquet.ParquetWriter(arrow.PythonFile(to, mode="w"), schema, **self._options(arrow, schema))
        try:
            for group in shards(items, media_bytes, _ROW_GROUP_BYTES, _ROW_GROUP_ROWS):
                columns: dict[str, list[Any]] = {name: [] for name in schema.names}
                for item in group:
                    for name, value in self._row(item).items():
                        columns[name].append(value)
                writer.write_table(arrow.table(columns, schema))
            writer.close()
        finally:
            writer.is_open = False  # after an error, its destructor would write the rest of the file

    def _row(self, item: Item) -> dict[str, Any]:
        files: dict[str, Any] = dict.fromkeys(self._media)
        files[_CLIP] = _content(item.clip, item.key)
        files |= {self._names[role]: _content(media, media.sha256[:16]) for role, media in item.inputs.items()}
        return {**files, **clean_row(item.values)}

    def _options(self, arrow: Any, schema: Any) -> dict[str, Any]:
        """Return how columns are written. Media are not compressed again, and have no statistics: these are values."""
        described = arrow.parquet.ParquetFile(_empty(arrow, schema)).schema
        names = [described.column(number).path for number in range(len(described))]
        content = {f"{name}.bytes" for name in self._media}
        others = [name for name in names if name not in content]
        return {
            "compression": {name: "NONE" if name in content else "ZSTD" for name in names},
            "use_dictionary": others,
            "write_statistics": others,
            "write_page_index": True,
            "use_content_defined_chunking": True,
        }


def _empty(arrow: Any, schema: Any) -> Any:
    """Return a Parquet file without rows, from which the names of nested columns are read."""
    sink = arrow.BufferOutputStream()
    with arrow.parquet.ParquetWriter(sink, schema):
        pass
    return arrow.BufferReader(sink.getvalue())


def _arrow_type(arrow: Any, kind: Dtype) -> Any:
    if isinstance(kind, Mapping):
        return arrow.struct([(name, _arrow_type(arrow, item)) for name, item in kind.items()])
    if kind in {features.VIDEO, features.IMAGE}:
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    simple = {"strings": arrow.list_(arrow.string()), "bool": arrow.bool_(), "string": arrow.string()}
    return simple.get(kind) or {"int64": arrow.int64(), "float64": arrow.float64()}[kind]


def _content(media: MediaFile, stem: str) -> dict[str, Any]:
    """Return a file as a value. Raises MediaRefused."""
    if media.bytes > _MOST_BYTES:
        raise MediaRefused(media, "has more than 2 GB, which a Parquet file cannot hold")
    return {"bytes": b"".join(checked_chunks(media)), "path": f"{stem}{media.suffix}"}


def _recipe(items: Iterable[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        files = {role: (media.sha256, media.suffix) for role, media in item.inputs.items()}
        digest.update(recipe_of(item.key, item.clip.sha256, item.clip.suffix, files).encode() + json_line(item.values))
    return digest.hexdigest()
