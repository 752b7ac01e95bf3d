"""Reading records from files, folders, fsspec URLs and the hub, one at a time.

A record that cannot be parsed is handed on as `Unreadable` with its place, so that it can be set
aside and counted; a file that is not what its name says is a `DataFormatError`.
"""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from rm_cluster.config import BENCHMARK_TYPES, KNOWN_BENCHMARKS
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Record

FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_COMPRESSIONS = (".gz", ".bz2", ".xz")
_PRINTED = re.compile(r"\[\{'(role|content)': ")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Place(NamedTuple):
    """Where a record stands: `line` is 1-based, a row number where a format has no lines."""

    file: str
    line: int

    @property
    def stem(self) -> str:
        return self.file.rsplit("/", 1)[-1].split(".")[0]


class Unreadable(NamedTuple):
    """A record that its format's parser refused."""

    reason: str
    text: str


def find_files(path: str, split: str | None = None) -> list[str]:
    """Return the data files of a file, folder or fsspec URL, sorted; empty for a hub id.

    Args:
        path: Where they are.
        split: Only those with this word in their path below it, as in `data/test-00000-of-00001`.

    Raises:
        DataFormatError: Nothing is there, or nothing of a known format or of the split.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        if filesystem.isfile(root):
            found = [root]
            _format_of(path)
        elif filesystem.isdir(root):
            found = sorted(
                file
                for file in filesystem.find(root)
                # what editors keep is no data (.ipynb_checkpoints)
                if _has_format(file) and "/." not in file.removeprefix(root)
            )
            if not found:
                raise DataFormatError(
                    f"No data file in {path!r}; wanted {', '.join(FORMATS)}, plain or compressed."
                )
        elif _HUB_ID.fullmatch(path) and not _has_format(path):
            return []
        else:
            raise DataFormatError(f"No file or folder {path!r}.{_known(path)}")
    except (ImportError, OSError, ValueError) as error:
        if isinstance(error, DataFormatError):
            raise
        raise DataFormatError(f"Cannot open {path!r}: {_line(error)}") from None
    if split is not None:
        found = _of_split(found, root, split)
    return [str(filesystem.unstrip_protocol(file)) for file in found]


def _of_split(files: list[str], root: str, split: str) -> list[str]:
    """As the hub tells the splits of a folder of files: by a word in the path."""
    above = len(root) if files != [root] else root.rfind("/")
    word = re.compile(rf"(?<![a-z]){re.escape(split.lower())}(?![a-z])")
    found = [file for file in files if word.search(file[above:].lower())]
    if not found:
        names = ", ".join(file.rsplit("/", 1)[-1] for file in files)
        raise DataFormatError(f"No file of the split {split!r} in {root!r}, which has {names:.200}")
    return found


def read_records(file: str) -> Iterator[tuple[Place, Record | Unreadable]]:
    """Yield the records of one file with their places, holding one at a time where it can.

    Raises:
        DataFormatError: The file is missing, or is not what its name says.
    """
    kind = _format_of(file)
    name = file.removeprefix("file://")
    try:
        with fsspec.open(file, "rb", compression="infer") as stream:
            records = {
                ".parquet": _read_parquet,
                ".json": _read_json,
                ".csv": _read_csv,
                ".tsv": _read_tsv,
            }.get(kind, _read_json_lines)(stream)
            for line, record in records:
                yield Place(name, line), record
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise DataFormatError(f"{name} cannot be read as {kind}: {_line(error)}") from None


def read_hub(dataset: str, split: str) -> Iterator[tuple[Place, Record | Unreadable]]:
    """Yield the records of a data set on the Hugging Face hub.

    Raises:
        DataFormatError: It cannot be loaded, for whatever reason `datasets` gives.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(dataset, split=split)
    except Exception as error:  # whatever the network, the hub or a data set's files may throw
        raise DataFormatError(
            f"Cannot load {dataset!r} (split {split!r}) from the hub: {_line(error)[:200]}\n"
            "Give the benchmark a path to its files if there is no network."
        ) from None
    for line, record in enumerate(loaded, start=1):
        yield Place(f"{dataset}:{split}", line), record


def _read_json_lines(stream: IO[bytes]) -> Iterator[tuple[int, Record | Unreadable]]:
    for line, raw in enumerate(stream, start=1):
        if raw.strip():
            yield line, _parse_json(raw)


def _read_json(stream: IO[bytes]) -> Iterator[tuple[int, Record | Unreadable]]:
    """A list of records; many files of the hub named .json hold JSON lines instead."""
    raw = stream.read()
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
        yield from _read_json_lines(io.BytesIO(raw))
        return
    try:
        items = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise OSError(_line(error)) from None
    for line, item in enumerate(items, start=1):
        yield line, item if isinstance(item, dict) else _not_an_object(item)


def _read_parquet(stream: IO[bytes]) -> Iterator[tuple[int, Record | Unreadable]]:
    line = 0
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
        for record in batch.to_pylist():
            line += 1
            yield line, record


def _read_csv(stream: IO[bytes], delimiter: str = ",") -> Iterator[tuple[int, Record | Unreadable]]:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
    try:
        "".join(reader.fieldnames or ()).encode("utf-8")
    except (UnicodeEncodeError, csv.Error):
        raise OSError("its first line is not UTF-8 text; save it as UTF-8") from None
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):  # which has taken all that follows with it
                raise OSError(
                    f"a quote that opens after line {reader.line_num} is never closed"
                ) from None
            # the reader below counts lines of records that fail, too
            yield reader.reader.line_num, Unreadable(str(error), "")
            continue
        if None in record or None in record.values():
            width = len(reader.fieldnames or ())
            yield reader.line_num, Unreadable(f"not {width} fields wide", str(record))
            continue
        try:
            cells = {key: _decode_cell(key, cell) for key, cell in record.items() if cell != ""}
        except ValueError as error:
            yield reader.line_num, Unreadable(str(error), str(record)[:1000])
        else:
            yield reader.line_num, cells


def _read_tsv(stream: IO[bytes]) -> Iterator[tuple[int, Record | Unreadable]]:
    return _read_csv(stream, delimiter="\t")


def _decode_cell(column: str, cell: str) -> Any:
    """A CSV cell is text, unless it holds a list of texts, messages or labels, in JSON or Python.

    Raises:
        ValueError: It holds messages as neither has them, which are no text that anybody means.
    """
    if not (cell.startswith(('["', "[{", "['")) or column == "labels"):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # what two lists with a comma between them are to Python is text to all others
        return found if read is json.loads or isinstance(found, list) else cell
    if _PRINTED.match(cell):
        raise ValueError(f"{column} holds messages as Python prints them; write them as JSON")
    return cell


def _parse_json(raw: bytes) -> Record | Unreadable:
    try:
        item = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(_line(error), raw[:1000].decode("utf-8", errors="replace"))
    return item if isinstance(item, dict) else _not_an_object(item)


def _not_an_object(item: Any) -> Unreadable:
    return Unreadable(f"not an object but {type(item).__name__}", str(item)[:1000])


def _bare(file: str) -> str:
    if file.startswith("zip://"):  # zip://data/file.json::archive.zip
        file = file.split("::")[0]
    for compression in _COMPRESSIONS:
        file = file.removesuffix(compression)
    return file


def _has_format(file: str) -> bool:
    return _bare(file).lower().endswith(FORMATS)


def _format_of(file: str) -> str:
    for suffix in FORMATS:
        if _bare(file).lower().endswith(suffix):
            return suffix
    raise DataFormatError(
        f"{file!r} has no known ending; wanted {', '.join(FORMATS)}, plain or compressed "
        f"({', '.join(_COMPRESSIONS)})."
    )


def _known(name: str) -> str:
    close = difflib.get_close_matches(name, BENCHMARK_TYPES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f" Known benchmarks: {KNOWN_BENCHMARKS}.{hint}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
