"""Tables on any fsspec filesystem: the score store and the snapshot of the rows that were judged.

A file is written under another name and then moved, so that a reader, or a run that goes on after a
crash, sees it whole or not at all. Nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_cluster.columns import Bools, Column, any_of, largest_of, ranks
from rm_cluster.errors import ConfigError
from rm_cluster.types import ROW_SCHEMA, Row

REWARD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # contract id and content of the prompt group
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("model", pa.string()),
        ("kind", pa.string()),
        ("values", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
        ("truncated", pa.list_(pa.bool_())),
        ("max_length", pa.int32()),
        ("error", pa.string()),
    ]
)
SAMPLE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # contract id and content of the prompt
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("model", pa.string()),
        ("first", pa.int32()),  # number of the first of these samples
        ("completions", pa.list_(pa.string())),
        ("num_tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float64())),
        ("ended", pa.list_(pa.bool_())),
        ("error", pa.string()),
    ]
)
_READ_AT_ONCE = 16
_LOOKED_UP = ("key", "values", "num_tokens", "truncated", "max_length", "error")
WINDOW_SCHEMA = pa.schema([*ROW_SCHEMA, ("content", pa.string()), ("num_completions", pa.int32())])


class Folder:
    """A folder of one run, local or at any URL that fsspec knows."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"Cannot use {url!r} as a folder: {error}") from None

    def sub(self, name: str) -> Folder:
        """A folder inside, under a name that may hold any character."""
        escaped = quote(name, safe=" ")
        if escaped.startswith("."):
            escaped = "%2E" + escaped[1:]
        if len(escaped) > 150:  # file systems end at 255 bytes
            digest = hashlib.blake2b(name.encode("utf-8"), digest_size=16).hexdigest()
            escaped = f"{escaped[:100]}-{digest}"
        return Folder(f"{self.url}/{escaped}")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file; it appears whole."""
        self._filesystem.makedirs(self._root, exist_ok=True)
        partial = f"{self._root}/.{uuid.uuid4().hex}.partial"
        self._filesystem.pipe_file(partial, data)
        self._filesystem.mv(partial, f"{self._root}/{name}")

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def write_table(self, name: str, table: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue())

    def read_bytes(self, name: str) -> bytes:
        data: bytes = self._filesystem.cat_file(f"{self._root}/{name}")
        return data

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        # not by path: pyarrow would take `kind=reward` in a folder's name for a column
        with self._filesystem.open(f"{self._root}/{name}", "rb") as stream:
            return pq.ParquetFile(stream).read(columns=columns)

    def read_tables(self, names: Sequence[str], columns: Sequence[str] | None) -> list[pa.Table]:
        """Several at a time: each takes a round trip where the folder is far away."""
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            return list(pool.map(lambda name: self.read_table(name, columns), names))

    def names(self, suffix: str = ".parquet") -> list[str]:
        """The files right in this folder, sorted."""
        if not self._filesystem.isdir(self._root):
            return []
        self._filesystem.invalidate_cache(self._root)
        paths = self._filesystem.ls(self._root, detail=False)
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self._filesystem.exists(f"{self._root}/{name}"):
            self._filesystem.rm_file(f"{self._root}/{name}")

    def clear(self) -> None:
        """Remove the folder with all that it holds, if it is there."""
        if self._filesystem.isdir(self._root):
            self._filesystem.rm(self._root, recursive=True)


class Store:
    """What was measured under one contract, in as many files as there were requests.

    Args:
        output_dir: Of the run.
        kind: The folder of what is measured.
        contract_id: Of the model that it is measured with.
        schema: Of the rows.
    """

    def __init__(self, output_dir: str, kind: str, contract_id: str, schema: pa.Schema) -> None:
        self._folder = Folder(output_dir).sub(kind).sub(contract_id)
        self._schema = schema
        self.contract_id = contract_id

    def append(self, measured: Iterable[dict[str, Any]]) -> None:
        """Add rows of the schema, without `key`'s contract part."""
        rows = [{**row, "key": f"{self.contract_id}-{row['key']}"} for row in measured]
        table = pa.Table.from_pylist(rows, schema=self._schema)
        self._folder.write_table(f"{uuid.uuid4().hex}.parquet", table)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything stored."""
        nothing = self._schema.empty_table().select(columns or self._schema.names)
        return pa.concat_tables([nothing, *self._folder.read_tables(self._folder.names(), columns)])


class RewardStore(Store):
    """The rewards measured under one scoring contract, or the verdicts of a judge."""

    def __init__(self, output_dir: str, contract_id: str, kind: str = "reward") -> None:
        super().__init__(output_dir, "rewards", contract_id, REWARD_SCHEMA)
        self._kind = kind

    def append(self, measured: Iterable[dict[str, Any]]) -> None:
        super().append({**row, "kind": self._kind} for row in measured)

    def read(self, max_length: int | None, truncation: str) -> StoredRewards:
        """Everything stored, as far as it can be used under these limits."""
        stored = self.table(_LOOKED_UP)
        # by content alone: what is before it is the contract, in all of them
        content = pc.utf8_slice_codeunits(stored["key"], len(self.contract_id) + 1)
        return StoredRewards(stored.set_column(0, "key", content), max_length, truncation)


class SampleStore(Store):
    """The completions sampled under one contract of a policy."""

    def __init__(self, output_dir: str, contract_id: str) -> None:
        super().__init__(output_dir, "samples", contract_id, SAMPLE_SCHEMA)

    def read(self) -> StoredSamples:
        """Everything stored."""
        return StoredSamples(self.table(), self.contract_id)


class StoredSamples:
    """Lookup of stored samples by prompt."""

    def __init__(self, table: pa.Table, contract_id: str) -> None:
        self._table = table
        self._contract_id = contract_id
        firsts, counts = table["first"].to_pylist(), pc.list_value_length(table["completions"])
        self._rows: dict[str, list[tuple[int, int, int]]] = {}
        for row, (key, first, count) in enumerate(
            zip(table["key"].to_pylist(), firsts, counts.to_pylist(), strict=True)
        ):
            self._rows.setdefault(key, []).append((first, count, row))
        for rows in self._rows.values():
            rows.sort()

    def num_stored(self, content: str) -> int:
        """How many samples of a prompt there are, counted from the first without a gap."""
        found = 0
        for first, count, _ in self._rows.get(f"{self._contract_id}-{content}", ()):
            found = max(found, first + count) if first <= found else found
        return found

    def lookup(self, content: str, n: int) -> dict[str, Any]:
        """The first `n` samples of a prompt, or as many as there are, and its error if it failed.

        Returns:
            `completions, num_tokens, logprobs, ended` as lists, and `error`.
        """
        found: dict[str, Any] = {name: [] for name in SAMPLE_COLUMNS}
        error = None
        for first, count, row in self._rows.get(f"{self._contract_id}-{content}", ()):
            known = len(found["completions"])
            if not count:
                error = self._table["error"][row].as_py()
            elif first <= known < first + count:
                for name, values in found.items():
                    values += self._table[name][row].as_py()[known - first :]
        cut = {name: values[:n] for name, values in found.items()}
        return {**cut, "error": error if len(cut["completions"]) < n else None}


SAMPLE_COLUMNS = ("completions", "num_tokens", "logprobs", "ended")


class StoredRewards:
    """Lookup of stored rewards by the content of a prompt group, which is their `key` here."""

    def __init__(self, table: pa.Table, max_length: int | None, truncation: str) -> None:
        usable = _usable(table, max_length, truncation)
        failed = table["error"].is_valid().to_numpy() & _same_limit(table, max_length)
        # usable rows first: an error of an earlier try gives way to a later success; what was
        # measured under other limits and is not usable says nothing here
        self._order = pa.array(np.concatenate([np.flatnonzero(usable), np.flatnonzero(failed)]))
        self._table = table
        self._num_usable = int(usable.sum())

    def missing(self, content: Column) -> npt.NDArray[np.int64]:
        """Positions of the prompt groups ([P] content hashes) that are still to be measured.

        Of those that are equal, the first.
        """
        known = self._ordered_keys()[: self._num_usable]
        found: Bools = pc.is_in(content, value_set=known).to_numpy(zero_copy_only=False)
        positions = np.flatnonzero(~found)
        distinct, _ = ranks(content.take(positions))
        return positions[np.sort(np.unique(distinct, return_index=True)[1])]

    def lookup(self, content: Column) -> pa.Table:
        """What is stored of each prompt group, errors included; nulls where there is nothing.

        Returns:
            `values, num_tokens, truncated, error`.
        """
        positions = pc.index_in(content, value_set=self._ordered_keys())
        found = self._table.select(["values", "num_tokens", "truncated", "error"])
        return found.take(self._order.take(positions))

    def _ordered_keys(self) -> pa.ChunkedArray:
        keys = self._table["key"]
        return keys if self._num_usable == len(keys) else keys.take(self._order)


def _usable(table: pa.Table, max_length: int | None, truncation: str) -> Bools:
    """Whether each stored row is what this run would measure.

    A text that was whole then, and fits now, is; one that was cut is if it would be cut alike.
    """
    fits = True if max_length is None else largest_of(table["num_tokens"]) <= max_length
    cut_alike = truncation == "left_prompt" and _same_limit(table, max_length)
    failed = table["error"].is_valid().to_numpy()
    usable: Bools = ~failed & np.where(any_of(table["truncated"]), cut_alike, fits)
    return usable


def _same_limit(table: pa.Table, max_length: int | None) -> Bools:
    """Whether each stored row was measured under this limit."""
    limits = table["max_length"]
    same = limits.is_null() if max_length is None else pc.equal(limits, max_length)
    found: Bools = pc.fill_null(same, False).to_numpy()
    return found


def content_hash(row: Row) -> str:
    """Identify what a reward model sees of a row: its prompt and its completions."""
    turns = [[message["role"], message["content"]] for message in row["prompt"]]
    seen = json.dumps([turns, row["completions"]], ensure_ascii=False)
    return hashlib.blake2b(seen.encode("utf-8"), digest_size=16).hexdigest()
