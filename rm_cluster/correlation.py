"""The correlate job, without Ray: metrics and outcomes in, correlations and predictions out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rm_cluster import published
from rm_cluster.config import PUBLISHED, CorrelateConfig
from rm_cluster.downstream import (
    compare_base_models,
    correlate,
    match,
    predict,
    quantile_aggregation,
    read_metrics,
    read_outcomes,
)
from rm_cluster.downstream.base_models import BaseModelTables
from rm_cluster.downstream.correlation import CORRECTNESS_BENCHMARKS, HUMAN_CATEGORIES
from rm_cluster.downstream.sources import read_table
from rm_cluster.downstream.tables import Matching, check_metrics
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.parsing import parse_config
from rm_cluster.published.comparison import compare_with_printed
from rm_cluster.store import Folder

logger = logging.getLogger(__name__)

_PACKAGES = ("rm-cluster", "numpy", "pandas", "scipy", "scikit-learn")


def published_config() -> dict[str, Any]:
    """What runs without a CONFIG: the published tables, and what was printed about them."""
    return {"metrics": [PUBLISHED], "downstream": PUBLISHED, "base_models": PUBLISHED}


@dataclass(frozen=True)
class CorrelationResult:
    """The outcome of `correlate_files`.

    Attributes:
        correlations: As `downstream.correlate`.
        quantiles: As `downstream.quantile_aggregation`, over PPE's human categories and over its
            correctness benchmarks (`over`), as far as the metrics have them.
        prediction: As `downstream.predict`.
        base_models: As `downstream.compare_base_models`, or None.
        published: Printed numbers beside ours where all inputs are the published ones, or None.
        metrics: What was read.
        outcomes: What was read.
        config: What was asked for.
        run: Versions, seed, counts, names without a partner and seconds.
    """

    correlations: pd.DataFrame
    quantiles: pd.DataFrame
    prediction: dict[str, Any]
    base_models: BaseModelTables | None
    published: pd.DataFrame | None
    metrics: pd.DataFrame
    outcomes: pd.DataFrame
    config: CorrelateConfig
    run: dict[str, Any]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What `save` writes as .csv and .parquet, by file name."""
        return {name: table for name, table in self._tables().items() if table is not None}

    def _tables(self) -> dict[str, pd.DataFrame | None]:
        """All that there may be; None where there is not."""
        base_models = self.base_models
        return {
            "correlations": self.correlations,
            "quantiles": self.quantiles,
            "metrics": self.metrics,
            "outcomes": self.outcomes,
            "base_models": base_models and base_models.leaderboard,
            "base_model_correlations": base_models and base_models.correlations,
            "base_model_gains": base_models and base_models.gains,
            "coverage": base_models and base_models.coverage,
            "selection": base_models and base_models.selection,
            "published": self.published,
        }

    def save(self, dir: str) -> None:
        """Write the tables, the predictions, the resolved config, the report, the run's record."""
        from rm_cluster.report.correlation import write_report

        folder = Folder(dir)
        for name, table in self._tables().items():
            if table is None:
                # an earlier result in this folder may have had one
                folder.remove(f"{name}.csv")
                folder.remove(f"{name}.parquet")
                continue
            folder.write_text(f"{name}.csv", table.to_csv(index=False))
            folder.write_table(f"{name}.parquet", pa.Table.from_pandas(table, preserve_index=False))
        prediction = json.dumps(self.prediction, indent=2, allow_nan=False)
        folder.write_text("prediction.json", prediction + "\n")
        folder.write_text("config.yaml", self.config.to_yaml())
        write_report(self, folder)
        # last: a folder with a run.json holds a whole result
        folder.write_text("run.json", json.dumps(self.run, indent=2) + "\n")


def correlate_files(config: CorrelateConfig | Mapping[str, Any] | str | Path) -> CorrelationResult:
    """Correlate metrics with outcomes, predict these, compare base models; save and return it all.

    Args:
        config: A `CorrelateConfig`, a dict of its fields, or the path of a YAML file.

    Raises:
        ConfigError: The configuration is wrong, or a file is not there.
        DataFormatError: A table is not what it should be, or the tables share no reward model.
    """
    run = _absolute(parse_config(CorrelateConfig, config))
    started = time.monotonic()
    _announce(run)
    metrics = check_metrics(pd.concat(map(_read_metrics, run.metrics), ignore_index=True))
    outcomes = (
        published.arena_scores() if run.downstream == PUBLISHED else read_outcomes(run.downstream)
    )
    matching = match(metrics, outcomes)
    if not matching.shared:
        raise DataFormatError(
            f"No reward model stands in both tables: the metrics are of "
            f"{_names(matching.only_in_metrics)}, the outcomes of "
            f"{_names(matching.only_in_downstream)}. The names must be equal."
        )
    base_table = _read_base_models(run.base_models)
    correlations = correlate(metrics, outcomes, run.seed)
    logger.info("%d correlations over %d reward models", len(correlations), len(matching.shared))
    quantiles = _quantiles(metrics, outcomes, run.seed)
    base = None if base_table is None else compare_base_models(base_table, run.seed)
    printed = None
    if base and _is_published(run):
        printed = compare_with_printed(correlations, quantiles, base)
    result = CorrelationResult(
        correlations=correlations,
        quantiles=quantiles,
        prediction=predict(metrics, outcomes, run.seed),
        base_models=base,
        published=printed,
        metrics=metrics,
        outcomes=outcomes,
        config=run,
        run=_record(run, matching, metrics, base_table, started),
    )
    result.save(run.output_dir)
    return result


def _read_metrics(source: str) -> pd.DataFrame:
    return published.ppe_metrics() if source == PUBLISHED else read_metrics(source)


def _read_base_models(source: str | None) -> pd.DataFrame | None:
    if source is None:
        return None
    return published.base_models() if source == PUBLISHED else read_table(source)


def _quantiles(metrics: pd.DataFrame, outcomes: pd.DataFrame, seed: int) -> pd.DataFrame:
    groups = {
        "human_categories": HUMAN_CATEGORIES,
        "correctness_benchmarks": CORRECTNESS_BENCHMARKS,
    }
    tables = []
    for name, domains in groups.items():
        table = quantile_aggregation(metrics, outcomes, domains, seed=seed)
        table.insert(1, "over", name)
        tables.append(table)
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _is_published(run: CorrelateConfig) -> bool:
    return published_config() == {
        "metrics": run.metrics,
        "downstream": run.downstream,
        "base_models": run.base_models,
    }


def _record(
    run: CorrelateConfig,
    matching: Matching,
    metrics: pd.DataFrame,
    base_table: pd.DataFrame | None,
    started: float,
) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "n_reward_models": len(matching.shared),
        "only_in_metrics": matching.only_in_metrics,
        "only_in_downstream": matching.only_in_downstream,
        "n_metric_values": len(metrics),
        "n_metric_values_missing": int(metrics["value"].isna().sum()),
    }
    if base_table is not None:
        counts["n_base_model_rows"] = len(base_table)
        counts["n_base_models_without_outcome"] = int(base_table["outcome"].isna().sum())
    return {
        "seed": run.seed,
        "seconds": round(time.monotonic() - started, 3),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
        **counts,
    }


def _announce(run: CorrelateConfig) -> None:
    """Write the resolved config first, so that an output folder that cannot be used is told now."""
    folder = Folder(run.output_dir)
    try:
        folder.remove("run.json")  # what is there is no whole result until this run ends
        folder.write_text("config.yaml", run.to_yaml())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"Cannot write to output_dir {run.output_dir!r}: {error}") from None


def _absolute(run: CorrelateConfig) -> CorrelateConfig:
    """The config with absolute local paths, so that it can be run again from any folder."""

    def there(path: str) -> str:
        local = path != PUBLISHED and "://" not in path
        return str(Path(path).expanduser().absolute()) if local else path

    return run.model_copy(
        update={
            "metrics": list(map(there, run.metrics)),
            "downstream": there(run.downstream),
            "base_models": None if run.base_models is None else there(run.base_models),
            "output_dir": there(run.output_dir),
        }
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
