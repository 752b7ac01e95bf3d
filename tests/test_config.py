from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import rm_cluster as rmc
from rm_cluster.config import BenchmarkConfig, EvaluateConfig
from rm_cluster.engines import vllm_arguments
from rm_cluster.errors import ConfigError
from rm_cluster.job import read_command_line
from rm_cluster.parsing import parse_config

GOOD: dict[str, Any] = {
    "reward_models": [
        {"name": "skywork", "type": "classifier", "model": "Skywork/RM", "revision": "main",
         "dtype": "bfloat16", "max_length": 4096, "engine": "torch"},
        {"type": "length"},
        {"name": "team", "type": "our.code:Scorer", "options": {"a": 1}},
    ],
    "benchmarks": ["rewardbench2", "rm-bench", {"name": "ours", "path": "pairs.jsonl"}, "x/y.csv"],
    "limit": None,
    "serving": {"min_replicas": 0, "max_replicas": 8, "num_gpus": 1},
    "scoring": {"tokens_per_request": 16384, "truncation": "error", "max_failed_fraction": 0.0},
    "output_dir": "s3://bucket/run-1",
    "seed": 0,
}  # fmt: skip


def parsed(*overrides: str, **changes: Any) -> EvaluateConfig:
    return parse_config(EvaluateConfig, {**GOOD, **changes}, overrides)


def test_names_and_types_are_filled_in() -> None:
    config = parsed(reward_models=[{"type": "classifier", "model": "Skywork/RM-8B"}])
    assert config.reward_models[0].name == "RM-8B"
    found = [(b.name, b.type, b.path) for b in config.benchmarks]
    assert found == [
        ("rewardbench2", "rewardbench2", None),
        ("rm-bench", "rm-bench", None),
        ("ours", "preferences", "pairs.jsonl"),
        ("y", "preferences", "x/y.csv"),
    ]


def test_a_config_survives_yaml_and_pickle() -> None:
    config = parsed()
    assert (
        parse_config(EvaluateConfig, yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config
    )
    assert pickle.loads(pickle.dumps(config)) == config


def test_overrides_reach_into_lists_and_make_what_is_missing() -> None:
    config = parsed("reward_models.0.max_length=512", "limit=7", "serving.autoscaling.x=2.5")
    assert config.reward_models[0].max_length == 512  # type: ignore[union-attr]
    assert config.limit == 7
    assert config.serving.autoscaling == {"x": 2.5}
    assert parsed("limit=null").limit is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rewardmodels": []}, "Unknown key 'rewardmodels'. Did you mean 'reward_models'?"),
    ({"scoring": {"truncate": 1}}, "Unknown key 'scoring.truncate'. Did you mean 'truncation'?"),
    ({"template": "plain"}, "Unknown key 'template'. There is such a key, but not in this place."),
    ({"reward_models": []}, "reward_models is wrong"),
    ({"reward_models": "x"}, "reward_models is wrong"),
    ({"reward_models": [{"model": "x"}]}, "must have a type"),
    ({"reward_models": [{"type": "lenght"}]}, "must have a type"),
    ({"reward_models": [3]}, "must have a type"),
    ({"reward_models": [None]}, "must have a type"),
    ({"reward_models": [{"type": "classifier"}]}, "reward_models.0.model is missing"),
    ({"reward_models": [{"type": "classifier", "model": 3}]}, "reward_models.0.model is wrong"),
    ({"reward_models": [{"type": "classifier", "model": ""}]}, "reward_models.0.model is wrong"),
    ({"reward_models": [{"type": "classifier", "model": "x", "dtype": "int8"}]}, "int8"),
    ({"reward_models": [{"type": "classifier", "model": "x", "max_length": 0}]}, "max_length"),
    ({"reward_models": [{"type": "classifier", "model": "x", "max_length": True}]}, "max_length"),
    ({"reward_models": [{"type": "length", "nmae": "x"}]}, "Did you mean 'name'?"),
    ({"reward_models": [{"type": "a b:C", "name": "x"}]}, "reward_models.0.type is wrong"),
    ({"reward_models": [{"type": "a:C"}]}, "reward_models.0.name is missing"),
    ({"reward_models": [{"type": "length"}] * 2}, "names must differ, got 'length'"),
    ({"benchmarks": []}, "benchmarks is wrong"),
    ({"benchmarks": [{}]}, "benchmarks.0"),
    ({"benchmarks": [7]}, "benchmarks.0"),
    ({"benchmarks": [""]}, "benchmarks.0"),
    ({"benchmarks": [{"name": "ours"}]}, "preferences need a path"),
    ({"benchmarks": [{"name": "x", "path": "y", "type": "ppo"}]}, "benchmarks.0.type is wrong"),
    ({"benchmarks": ["a/x.csv", "b/x.csv"]}, "names must differ, got 'x'"),
    ({"limit": 0}, "limit is wrong"),
    ({"limit": -3}, "limit is wrong"),
    ({"limit": 2.5}, "limit is wrong"),
    ({"limit": "many"}, "limit is wrong"),
    ({"limit": True}, "limit is wrong"),
    ({"serving": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas <= max_replicas"),
    ({"serving": {"num_gpus": -1}}, "serving.num_gpus is wrong"),
    ({"serving": {"num_cpus": 0}}, "serving.num_cpus is wrong"),
    ({"serving": {"num_cpus": float("nan")}}, "serving.num_cpus is wrong"),
    ({"serving": {"num_gpus": float("inf")}}, "serving.num_gpus is wrong"),
    ({"serving": []}, "serving is wrong"),
    ({"scoring": {"max_failed_fraction": 1.1}}, "max_failed_fraction is wrong"),
    ({"scoring": {"max_failed_fraction": "1e-3"}}, "YAML reads that as text; write 1.0e-3."),
    ({"scoring": {"truncation": "right"}}, "'error' or 'left_prompt'"),
    ({"output_dir": ""}, "output_dir is wrong"),
    ({"output_dir": 5}, "output_dir is wrong"),
    ({"seed": -1}, "seed is wrong"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_in_a_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(**change)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "override",
    [
        "limit",
        "=3",
        ".=3",
        "limit=[",
        "reward_models.9.name=x",
        "reward_models.x.name=y",
        "reward_models.\N{SUPERSCRIPT TWO}.name=y",
        "nope=1",
    ],
)
def test_overrides_that_lead_nowhere(override: str) -> None:
    with pytest.raises(ConfigError):
        parsed(override)


@pytest.mark.parametrize(
    "override",
    [
        "reward_models.9.endpoint.api_key_env=sk-secret",
        "reward_models.0.endpoint.api_key_env=sk-secret: 1: 2",
    ],
)
def test_overrides_that_lead_nowhere_do_not_show_what_may_be_a_key(override: str) -> None:
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        parsed(override)
    assert "sk-secret" not in str(caught.value)


def test_a_part_of_what_has_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"benchmarks\.0 is 'rewardbench2' and has no parts"):
        parsed("benchmarks.0.path=/data/rb2", benchmarks=["rewardbench2"])


def test_yaml_may_merge_and_says_a_key_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    merged = """
        reward_models:
          - &m {type: classifier, name: a, model: x, max_length: 9}
          - &n {<<: *m, name: b, model: y}
          - {<<: *n, name: c}
        benchmarks: [rm-bench]
        output_dir: out
    """
    file.write_text(merged)
    models = parse_config(EvaluateConfig, file).reward_models
    assert [(m.name, m.model, m.max_length) for m in models] == [  # type: ignore[union-attr]
        ("a", "x", 9), ("b", "y", 9), ("c", "y", 9)
    ]  # fmt: skip
    file.write_text(merged + "\n        limit: 3\n        limit: 4\n")
    with pytest.raises(ConfigError, match="'limit' stands there a second time"):
        parse_config(EvaluateConfig, file)


@pytest.mark.parametrize("text", ["", "- a", "just text", "a: [", "\t", "a: b: c", "42", "!!x y"])
def test_files_that_hold_no_config(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        parse_config(EvaluateConfig, file)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse_config(EvaluateConfig, "nowhere.yaml")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "model", "path", "options", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(key=st.sampled_from(sorted(GOOD)), value=ANYTHING)
def test_anything_is_a_config_or_a_config_error(key: str, value: Any) -> None:
    with contextlib.suppress(ConfigError):
        parsed(**{key: value})


def test_path_of_a_benchmark_names_it() -> None:
    config = BenchmarkConfig.model_validate("s3://bucket/folder/pairs.jsonl.gz")
    assert (config.name, config.type) == ("pairs", "preferences")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"engine_args": {"seed": 1}}, "engine_args are vLLM's"),
        ({"engine": "vllm", "attn_implementation": "sdpa"}, "goes with engine: torch"),
        ({"engine": "vlm"}, "'torch' or 'vllm'"),
    ],
)
def test_options_of_another_engine(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed(reward_models=[{"type": "classifier", "model": "x", **model}])


@pytest.mark.skipif(vllm_arguments.version() is not None, reason="vLLM is installed")
def test_a_vllm_that_is_not_installed(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="not installed") as caught:
        rmc.Classifier(model=str(tiny_llama), engine="vllm")
    assert len(str(caught.value).splitlines()) == 2


def test_a_config_whose_name_looks_like_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "beta=0.1.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    monkeypatch.setattr("sys.argv", ["evaluate.py", str(file), "limit=7"])
    run = read_command_line(EvaluateConfig, dict)
    assert (run.limit, run.output_dir) == (7, "s3://bucket/run-1")


def test_a_key_stands_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\nscoring:\n  tokens_per_request: 8\n  tokens_per_request: 9\n")
    with pytest.raises(ConfigError, match=r"line 4: 'tokens_per_request' stands there a second"):
        parse_config(EvaluateConfig, str(file))
