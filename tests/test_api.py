"""The public contract: names and signatures that others rely on."""

from __future__ import annotations

import inspect

import rm_cluster as rmc
from rm_cluster.config import ClassifierConfig, EvaluateConfig
from rm_cluster.judging import SCORED_SCHEMA
from rm_cluster.metrics.table import METRIC_COLUMNS

SIGNATURES = {
    "annotate": ["config"],
    "doctor": ["config"],
    "correlate": ["metrics", "downstream", "seed"],
    "evaluate": ["config"],
    "generate": ["config"],
    "load_benchmark": ["name", "path", "limit"],
    "load_result": ["dir"],
    "search": ["config"],
    "Classifier": ["truncation", "options"],
    "Embedding": ["options"],
    "Ensemble": ["members", "options"],
    "Generator": ["options"],
    "Judge": ["truncation", "options"],
    "Length": ["options"],
    "LogRatio": ["truncation", "options"],
    "Logprob": ["truncation", "options"],
}


def test_names() -> None:
    assert rmc.__all__ == [
        "AnnotateConfig", "Classifier", "CorrelateConfig", "Embedding", "Ensemble", "EvalResult",
        "EvaluateConfig", "GenerateConfig", "Generator", "Judge", "Length", "LogRatio",
        "Logprob", "RMClusterError", "SearchConfig", "SearchResult", "annotate", "best_of_n",
        "correlate", "doctor", "downstream", "evaluate", "generate", "load_benchmark",
        "load_result", "metrics", "search",
    ]  # fmt: skip
    for name in rmc.__all__:
        assert getattr(rmc, name) is not None


def test_signatures() -> None:
    for name, parameters in SIGNATURES.items():
        assert list(inspect.signature(getattr(rmc, name)).parameters) == parameters
    assert list(inspect.signature(rmc.EvalResult.save).parameters) == ["self", "dir"]
    assert list(inspect.signature(rmc.Classifier.score).parameters) == ["self", "prompt_groups"]


def test_best_of_n_signatures() -> None:
    inputs = ["ref_logprobs_PN", "similarity_PNN", "num_tokens_PN"]
    signatures = {
        "select": ["rule", "rewards_PN", "beta", *inputs],
        "select_probabilities": ["rule", "rewards_PN", "beta", *inputs],
        "expected_best_of_n": ["proxy_PN", "gold_PN", "n"],
        "beta_path": ["rewards_N", "bonus_N"],
    }
    for name, parameters in signatures.items():
        found = inspect.signature(getattr(rmc.best_of_n, name)).parameters
        assert list(found) == parameters
    assert inspect.signature(rmc.best_of_n.select).parameters["beta"].default == 0.0


def test_tables() -> None:
    assert METRIC_COLUMNS == (
        "reward_model", "benchmark", "domain", "metric", "value", "stderr", "ci_low", "ci_high",
        "n", "n_failed", "n_tied", "n_truncated",
    )  # fmt: skip
    fields = {
        "metrics", "scored", "comparisons", "best_of_k", "ensemble_gains", "pair_sweep",
        "pair_sweep_correlations", "outcomes", "correlations", "config", "run",
    }  # fmt: skip
    assert set(rmc.EvalResult.__dataclass_fields__) == fields
    assert SCORED_SCHEMA.names == [
        "reward_model", "benchmark", "id", "domain", "slices", "values", "num_tokens", "truncated",
        "error", "margins",
    ]  # fmt: skip


def test_config_keys() -> None:
    assert set(EvaluateConfig.model_fields) == {
        "reward_models", "benchmarks", "limit", "serving", "scoring", "downstream",
        "output_dir", "seed",
    }  # fmt: skip
    assert set(ClassifierConfig.model_fields) == {
        "type", "model", "name", "revision", "tokenizer", "template", "dtype", "max_length",
        "engine", "engine_args", "attn_implementation", "trust_remote_code", "tokens_per_batch",
        "extrapolate",
        "head_weights",
    }  # fmt: skip


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(rmc, "nothing_of_the_kind")
