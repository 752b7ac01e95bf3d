from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rm_cluster as rmc
from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.candidates import GenerateResult
from rm_cluster.config import BenchmarkConfig, GenerateConfig
from rm_cluster.errors import ConfigError, ScoringError
from rm_cluster.parsing import parse_config
from rm_cluster.scorers.scorer import contract_id
from rm_cluster.types import Row
from tests.families import CAUSAL, save_family
from tests.models import tokenizer

TEXTS = ["Hi", "What is 2 plus 2?", "Hi", "x" * 60]


def count_vowels(row: Row, completion: str) -> float:
    return float(sum(letter in "aeiou" for letter in completion))


def fail_on_x(row: Row, completion: str) -> float:
    if row["prompt"][0]["content"].startswith("x"):
        raise ValueError("no answer is known")
    return 1.0


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("Llama", tmp_path_factory.mktemp("lm") / "lm", tokenizer(), CAUSAL)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("generate")
    file = folder / "prompts.jsonl"
    records = [{"id": f"q{i}", "prompt": text} for i, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "policy": {"model": str(tiny_lm), "name": "tiny", "n": 3, "max_new_tokens": 6},
        "prompts": str(file),
        "verifier": f"{__name__}:count_vowels",
        "output_dir": str(folder / "out"),
    }


@pytest.fixture(scope="module")
def done(cluster: None, config: dict[str, Any]) -> GenerateResult:
    return rmc.generate(config)


def changed(config: dict[str, Any], **policy: Any) -> dict[str, Any]:
    return {**config, "policy": {**config["policy"], **policy}}


def column(result: GenerateResult, name: str) -> list[list[Any]]:
    return [list(values) for values in result.candidates[name]]


@pytest.mark.ray
def test_candidates_are_those_of_the_generator(
    done: GenerateResult, config: dict[str, Any]
) -> None:
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in TEXTS]
    expected = rmc.Generator(**config["policy"]).sample(prompts)
    assert column(done, "completions") == [[c.text for c in group] for group in expected]
    assert column(done, "num_tokens") == [[c.num_tokens for c in group] for group in expected]
    assert column(done, "ended") == [[c.ended for c in group] for group in expected]
    logprobs = [[c.logprob for c in group] for group in expected]
    np.testing.assert_allclose(column(done, "logprobs"), logprobs, atol=1e-4)
    row: Any = {}
    labels = [[count_vowels(row, text) for text in group] for group in column(done, "completions")]
    assert column(done, "labels") == labels
    assert column(done, "policies") == [["tiny"] * 3] * 4
    summary = done.summary()
    assert summary["n"].tolist() == [4]
    assert summary["n_completions"].tolist() == [12]
    assert summary["label"][0] == pytest.approx(np.mean(labels))
    for name in ("candidates.parquet", "summary.csv", "config.yaml", "run.json", "report.html"):
        assert (Path(done.config.output_dir) / name).exists()


@pytest.mark.ray
def test_raising_n_adds_to_what_is_stored(
    done: GenerateResult, config: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(config["output_dir"], tmp_path, dirs_exist_ok=True)
    there = {**config, "output_dir": str(tmp_path)}
    assert rmc.generate(there).run["n_sampled"] == 0
    more = rmc.generate(changed(there, n=5))
    assert more.run["n_sampled"] == 3, "two of the four are equal"
    assert [group[:3] for group in column(more, "completions")] == column(done, "completions")
    rows = [
        len(group)
        for file in (tmp_path / "samples").rglob("*.parquet")
        for group in pd.read_parquet(file)["completions"]
    ]
    assert sorted(rows) == [2] * 3 + [3] * 3, "only the two new ones were drawn"
    fewer = rmc.generate(changed(there, n=2))
    assert fewer.run["n_sampled"] == 0
    assert column(fewer, "completions") == [group[:2] for group in column(done, "completions")]


@pytest.mark.ray
def test_a_prompt_that_fails_is_data(cluster: None, config: dict[str, Any], tmp_path: Path) -> None:
    tight = {**changed(config, max_length=50), "output_dir": str(tmp_path)}
    with pytest.raises(ScoringError, match=r"1 of 4 prompts failed.*'q3': it makes 63 tokens"):
        rmc.generate(tight)
    saved = pd.read_parquet(tmp_path / "candidates.parquet")
    assert saved["error"].notna().tolist() == [False, False, False, True]
    assert [len(group) for group in saved["completions"]] == [3, 3, 3, 0]
    assert pd.read_csv(tmp_path / "summary.csv")["n_failed"].tolist() == [1]
    assert "it makes 63 tokens" in (tmp_path / "report.html").read_text()
    # as a benchmark, what has no completions is set aside
    rows = list(read_rows(BenchmarkConfig(path=str(tmp_path / "candidates.parquet"))))  # type: ignore[call-arg]
    assert [isinstance(row, RejectedRow) for row in rows] == [False, False, False, True]


@pytest.mark.ray
def test_a_verifier_that_fails_is_told(done: GenerateResult, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"failed on 'q3': ValueError: no answer is known"):
        rmc.generate({**config, "verifier": f"{__name__}:fail_on_x"})
    with pytest.raises(ConfigError, match="Cannot import the verifier"):
        rmc.generate({**config, "verifier": f"{__name__}:nothing"})


@pytest.mark.ray
def test_what_was_written_is_a_benchmark(done: GenerateResult) -> None:
    path = f"{done.config.output_dir}/candidates.parquet"
    rows: list[Any] = list(read_rows(BenchmarkConfig(path=path)))  # type: ignore[call-arg]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3"]
    for name in ("completions", "labels", "policies"):
        assert [row[name] for row in rows] == column(done, name)
    for row in rows:
        assert {(p["chosen"], p["rejected"]) for p in row["pairs"]} == {
            (i, j) for i in range(3) for j in range(3) if row["labels"][i] > row["labels"][j]
        }
        held = json.loads(row["metadata"])
        assert len(held["logprobs"]) == len(held["num_tokens"]) == 3


def test_only_what_decides_a_sample_is_its_policys_identity(config: dict[str, Any]) -> None:
    def identity(**changes: Any) -> str:
        return contract_id(rmc.Generator(**{**config["policy"], **changes}).contract)

    assert identity(n=9) == identity(name="other") == identity(tokens_per_batch=7) == identity()
    others = [{"temperature": 0.5}, {"seed": 1}, {"top_p": 0.9}, {"max_new_tokens": 7}]
    assert len({identity(), *(identity(**changes) for changes in others)}) == 5


def test_prompts_come_from_files_of_many_shapes(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "a", "chosen": "good", "rejected": "bad"},
        {"messages": [{"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "x"}]},
        {"instruction": "d"},
        {"prompt": "e", "completions": ["x", "y"], "labels": [1, 0], "domain": "pool"},
        {"nothing": "f"},
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = list(read_rows(BenchmarkConfig(name="mixed", path=str(file), type="prompts")))
    accepted = [row for row in rows if not isinstance(row, RejectedRow)]
    assert [row["prompt"][-1]["content"] for row in accepted] == list("abcde")
    assert all(not row["completions"] and row["labels"] is None for row in accepted)
    assert "there is no prompt" in rows[-1].reason  # type: ignore[union-attr]


def test_a_path_holds_prompts_and_a_name_is_a_benchmark() -> None:
    def prompts(value: Any) -> BenchmarkConfig:
        config = {"policy": {"model": "m"}, "prompts": value}
        return parse_config(GenerateConfig, config).prompts

    assert prompts("file.jsonl").type == "prompts"
    assert prompts({"path": "file.jsonl"}).type == "prompts"
    assert prompts({"path": "file.jsonl", "type": "preferences"}).type == "preferences"
    assert prompts("rm-bench").type == "rm-bench"
    assert prompts({"name": "rm-bench", "path": "folder"}).type == "rm-bench"


def test_a_wrong_key_of_a_policy_is_told() -> None:
    with pytest.raises(ConfigError, match=r"policy\.temprature.*Did you mean 'temperature'"):
        parse_config(
            GenerateConfig, {"policy": {"model": "m", "temprature": 1.0}, "prompts": "p.jsonl"}
        )
