"""Read the tables that the analysis starts from: files, result folders, any URL fsspec knows."""

from __future__ import annotations

import lzma
import re
import zlib
from typing import Any

import fsspec
import pandas as pd

from rm_cluster.downstream.tables import check_downstream, check_metrics
from rm_cluster.errors import ConfigError, DataFormatError

_NAMES = dict.fromkeys(["reward_model", "benchmark", "domain", "metric", "base_model"], str)
_FORMATS = ".csv, .tsv, .parquet, .json (a list of records) and .jsonl"


def read_metrics(path: str) -> pd.DataFrame:
    """A table of metrics, or the one in the folder of a result.

    Raises:
        ConfigError: There is no such file.
        DataFormatError: It is not a table of metrics.
    """
    return check_metrics(read_table(_metrics_of(path)))


def read_outcomes(path: str) -> pd.DataFrame:
    """A table of outcomes: reward_model, outcome, value and whatever else it holds.

    Raises:
        ConfigError: There is no such file.
        DataFormatError: It is not a table of outcomes.
    """
    return check_downstream(read_table(path))


def read_table(path: str) -> pd.DataFrame:
    """A table by the ending of its name, compressed or not.

    Raises:
        ConfigError: There is no such file, or no such format.
        DataFormatError: The file does not hold what its name says.
    """
    ending = re.search(r"\.(csv|tsv|parquet|json|jsonl)(\.(gz|bz2|xz|zst))?$", path.lower())
    if not ending:
        raise ConfigError(f"Cannot read {path!r} as a table; the formats are {_FORMATS}.")
    _filesystem(path)
    try:
        if ending[1] == "parquet":
            return pd.read_parquet(path)
        if ending[1] in ("json", "jsonl"):
            return pd.read_json(path, lines=ending[1] == "jsonl", dtype=False)
        separator = "\t" if ending[1] == "tsv" else ","
        # not the first column for names of rows, where every row ends in a separator
        return pd.read_csv(path, sep=separator, dtype=_NAMES, index_col=False)
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ConfigError(f"Cannot read {path!r}: {reason}.") from None
    # so are the errors of pyarrow and of pandas' parsers
    except (ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        detail = " ".join(str(error).split())[:300]
        raise DataFormatError(f"{path} is not a {ending[1]} table: {detail}") from None


def _metrics_of(path: str) -> str:
    """The table of metrics in a folder of results, or the path itself where it is no folder."""
    filesystem, root = _filesystem(path)
    if not filesystem.isdir(root):
        return path
    if filesystem.exists(f"{root}/config.yaml") and not filesystem.exists(f"{root}/run.json"):
        # what lies there may be of an earlier run
        raise ConfigError(f"{path!r} holds no finished result: run it again, or let it end.")
    for name in ("metrics.parquet", "metrics.csv"):
        if filesystem.exists(f"{root}/{name}"):
            return f"{path.rstrip('/')}/{name}"
    raise ConfigError(f"{path!r} holds no finished result: metrics.parquet is missing.")


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"Cannot read {path!r}: {error}") from None
    return filesystem, root
