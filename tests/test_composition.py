from __future__ import annotations

from typing import Any

import pytest

from rm_cluster.composition import Composition, compose
from rm_cluster.config import EvaluateConfig, LogprobConfig, PairSweepConfig
from rm_cluster.errors import ConfigError
from rm_cluster.parsing import parse_config


def config(*models: dict[str, Any], **more: Any) -> EvaluateConfig:
    settings = {"reward_models": list(models), "benchmarks": ["ppe", "rm-bench"], **more}
    return parse_config(EvaluateConfig, settings)


def composed(*models: dict[str, Any]) -> Composition:
    return compose(config(*models).reward_models)


def ratio(strong: Any = "x/dpo", weak: Any = "x/sft", **more: Any) -> dict[str, Any]:
    return {"type": "log_ratio", "strong": strong, "weak": weak, **more}


def measured(found: Composition, name: str) -> LogprobConfig:
    model = found.measured[name]
    assert isinstance(model, LogprobConfig)
    return model


def test_a_ratio_is_named_after_its_members() -> None:
    assert config(ratio()).reward_models[0].name == "dpo-over-sft"
    named = config(ratio({"model": "x/dpo", "name": "a"}, "x/sft/"))
    assert named.reward_models[0].name == "a-over-sft"


def test_all_ordered_pairs_of_21_models_are_21_measurements() -> None:
    names = [f"hub/m{i}" for i in range(21)]
    pairs = [ratio(a, b, rendering="own", name=f"{a}|{b}") for a in names for b in names]
    assert len(composed(*pairs).measured) == 21
    swept = composed({"type": "pair_sweep", "models": names})
    assert len(swept.measured) == 21
    assert len(swept.parts["pair_sweep"]) == 21


def test_a_listed_model_is_measured_once_whatever_is_made_of_it() -> None:
    found = composed(
        {"type": "logprob", "model": "x/dpo", "name": "sum"},
        {"type": "logprob", "model": "x/dpo", "name": "simpo", "normalize": "mean", "beta": 2.0},
        ratio("simpo", "x/sft"),
    )
    assert found.parts == {
        "sum": ["sum"],
        "simpo": ["sum"],
        "simpo-over-sft": ["sum", "simpo-over-sft/sft"],
    }
    assert measured(found, "sum").normalize == "sum"


def test_checkpoints_that_are_called_alike_are_two() -> None:
    found = composed(ratio("a/final", "b/final", name="r"))
    assert found.parts == {"r": ["r/final", "r/final-2"]}
    assert [measured(found, name).model for name in found.parts["r"]] == ["a/final", "b/final"]


def test_a_model_over_itself_is_one_measurement() -> None:
    found = composed(ratio("x/lm", "x/lm"))
    assert found.parts["lm-over-lm"] == ["lm-over-lm/lm"] * 2


def test_the_strong_models_tokenizer_writes_for_both() -> None:
    found = composed(ratio({"model": "x/dpo", "tokenizer": "x/tok", "revision": "v2"}))
    weak = measured(found, "dpo-over-sft/sft")
    assert weak.renderer is not None
    assert (weak.renderer.tokenizer, weak.renderer.revision) == ("x/tok", "v2")
    assert measured(found, "dpo-over-sft/dpo").renderer is None


def test_a_given_template_is_written_by_the_strong_model_too() -> None:
    found = composed(ratio(template="plain"))
    assert [measured(found, name).template for name in found.measured] == ["plain", "plain"]


def test_each_model_its_own_template_when_asked() -> None:
    found = composed(ratio({"model": "x/dpo", "template": "concat"}, rendering="own"))
    assert measured(found, "dpo-over-sft/dpo").template == "concat"
    weak = measured(found, "dpo-over-sft/sft")
    assert (weak.template, weak.renderer) == (None, None)


def test_a_name_of_the_list_goes_before_a_path() -> None:
    found = composed({"type": "logprob", "model": "x/real", "name": "lm"}, ratio("lm", "x/sft"))
    assert measured(found, "lm").model == "x/real"


def test_a_sweep_of_some_benchmarks_measures_nothing_on_others() -> None:
    found = composed(
        {"type": "logprob", "model": "x/a"},
        {"type": "pair_sweep", "models": ["a", "x/b"], "benchmarks": ["ppe"]},
    )
    everything = ["ppe", "rm-bench"]
    assert found.benchmarks("a", everything) == everything
    assert found.benchmarks("pair_sweep/b", everything) == ["ppe"]
    assert isinstance(found.sweeps[0], PairSweepConfig)


def team(*members: str, **more: Any) -> dict[str, Any]:
    return {"type": "ensemble", "name": "team", "members": list(members), **more}


WRONG: list[tuple[list[dict[str, Any]], str]] = [
    ([{"type": "length"}, ratio("length")], "which is of type length"),
    ([ratio({"model": "X", "include_eos": False})], "wrong: X-over-sft needs the same include_eos"),
    ([ratio("x/a", {"model": "x/b", "template": "concat"})], "shares one template, but b has"),
    ([ratio(rendering="own", template="plain")], "rendering: own takes no template"),
    ([ratio({"name": "x"})], "reward_models.0.strong.model is missing"),
    ([ratio(3)], "reward_models.0.strong is wrong"),
    ([ratio("")], "reward_models.0.strong is wrong"),
    ([ratio(beta=0.0)], "reward_models.0.beta is wrong"),
    ([ratio(normalize="avg")], "'sum' or 'mean'"),
    ([{"type": "log_ratio", "strong": "x"}], "weak is missing"),
    ([{"type": "length"}, team("length", "other")], "a member 'other' that is no reward model"),
    ([{"type": "length"}, team("length", "length")], "names a member more than once"),
    ([{"type": "length"}, team("length", "team")], "a member 'team' of type ensemble"),
    (
        [{"type": "length"}, {"type": "judge", "model": "x/j"}, team("length", "j")],
        "a member 'j' that only compares the pairs of a benchmark; write compare: round_robin at j",
    ),
    ([{"type": "length"}, team("length")], "reward_models.1.members is wrong"),
    ([{"type": "pair_sweep", "models": ["x/a"]}], "reward_models.0.models is wrong"),
    ([{"type": "pair_sweep", "models": ["x/a", "y/a"]}], "two models 'a'"),
    (
        [{"type": "pair_sweep", "models": ["x/a", "x/b"], "benchmarks": ["mine"]}],
        "sweeps 'mine', which is none of the benchmarks; they are ppe, rm-bench",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("models", "said"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_composed_is_said_in_a_line(models: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*models)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
