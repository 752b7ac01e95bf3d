"""CDR's customization: criteria and exemplars by domain, and who says the domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rm_cluster as rmc
from rm_cluster.config import CustomizeConfig, LogprobConfig
from rm_cluster.errors import ConfigError
from rm_cluster.scorers import Router
from rm_cluster.scorers.customization import Customizer, fold_system, load_templates
from rm_cluster.scorers.router import UNKNOWN
from rm_cluster.types import Message
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import row

HI: list[Message] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("Llama", tmp_path_factory.mktemp("lm") / "lm", tokenizer(), CAUSAL)


def customizer(**options: Any) -> Customizer:
    return Customizer(CustomizeConfig(**options))


def test_our_own_templates_have_what_a_domain_needs() -> None:
    templates = load_templates("default")
    assert set(templates.domains) == {"safety", "reasoning", "chat"}
    assert templates.fallback == "chat"
    for domain in templates.domains.values():
        assert domain.definition
        assert domain.criteria
        assert len(domain.exemplars) == 4
        assert all(exemplar.why for exemplar in domain.exemplars)


@pytest.mark.parametrize(
    ("domain", "slices", "expected"),
    [
        ("Safety", [], "safety"),
        ("safety-refuse", [], "safety"),
        ("xstest-should-respond", [], "safety"),
        ("math-prm", [], "reasoning"),
        ("MATH", [], "reasoning"),
        ("hep-rust", [], "reasoning"),
        ("alpacaeval-easy", [], "chat"),
        ("human_preference", ["math", "hard"], "reasoning"),
        ("human_preference", ["English"], "chat"),
        ("no such thing", [], "chat"),
    ],
)
def test_rules_take_domains_first_then_slices_then_the_fallback(
    domain: str, slices: list[str], expected: str
) -> None:
    assert customizer().domain_of(row(domain=domain, slices=slices)) == expected


def test_criteria_are_a_system_turn_and_come_before_one_that_is_there() -> None:
    criteria = load_templates("default").domains["safety"].criteria
    only = customizer(use=["criteria"])
    plain = only.customized(row(HI), "safety")["prompt"]
    assert plain == [{"role": "system", "content": criteria}, *HI]
    system: list[Message] = [{"role": "system", "content": "Be kind."}]
    both = only.customized(row([*system, *HI]), "safety")["prompt"]
    assert both == [{"role": "system", "content": f"{criteria}\n\nBe kind."}, *HI]


def test_exemplars_lay_the_last_user_turn_out_as_the_next_one() -> None:
    turns: list[Message] = [*HI, {"role": "assistant", "content": "Hello"}, *HI]
    found = customizer(use=["exemplars"], num_exemplars=2).customized(row(turns), "chat")["prompt"]
    assert found[:2] == turns[:2]
    text = found[2]["content"]
    assert text.count("Bad reply:") == 2
    assert text.count("Why:") == 2
    assert text.endswith("\n\nUser: Hi\n\nGood reply:")


def test_the_ablations_and_nothing_at_all() -> None:
    prompts = {
        use: customizer(use=list(use)).customized(row(HI), "reasoning")["prompt"]
        for use in ((), ("criteria",), ("exemplars",), ("criteria", "exemplars"))
    }
    assert prompts[()] == HI
    assert prompts["criteria", "exemplars"] == [
        prompts["criteria",][0], prompts["exemplars",][0],
    ]  # fmt: skip
    untouched = row(HI)
    customizer().customized(untouched, "chat")
    assert untouched["prompt"] == HI


def test_exemplars_are_drawn_by_seed_and_row_or_by_domain() -> None:
    def drawn(**options: Any) -> list[str]:
        chooser = customizer(use=["exemplars"], **options)
        rows = [row(HI, id=i) for i in range(40)]
        return [chooser.customized(one, "chat")["prompt"][0]["content"] for one in rows]

    assert drawn() == drawn()
    assert len(set(drawn())) == 4
    assert drawn() != drawn(seed=1)
    assert len(set(drawn(draw="domain"))) == 1
    assert len(set(drawn(draw="domain", num_exemplars=9))) == 1, "as many as there are"


def test_templates_of_ones_own(tmp_path: Path) -> None:
    mine = {"fallback": "x", "domains": {"x": {"definition": "all", "criteria": "Be brief."}}}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(mine))
    found = customizer(templates=str(file)).customized(row(HI), "x")["prompt"]
    assert found == [{"role": "system", "content": "Be brief."}, *HI]
    own, ours = customizer(templates=str(file)).contract, customizer().contract
    assert own["templates_hash"] != ours["templates_hash"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"fallback": "y", "domains": {"x": {"definition": "d"}}}', "fallback must be one of"),
        ('{"fallback": "x", "domains": {"x": {"definition": "", "criterea": 1}}}', "wrong"),
        (
            '{"fallback": "x", "domains": {"x": {"definition": "d", "criterea": "c"}}}',
            "Did you mean 'criteria'",
        ),
        ("[]", "must hold"),
        (None, "Cannot read"),
    ],
)
def test_wrong_templates_are_told(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        customizer(templates=str(file))


def test_a_system_turn_is_folded_where_the_template_has_no_place_for_it(tmp_path: Path) -> None:
    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    drops = refuses.replace("{{ raise_exception('no') }}{% endif %}", "{% else %}").replace(
        "{{ m.content }}", "{{ m.content }}{% endif %}"
    )
    folder = save_family("Llama", tmp_path / "lm", tokenizer(), CAUSAL)
    customize = {"use": ["criteria"]}
    (written,) = customizer(**customize).routed([row(HI)])
    folded = [{**written, "prompt": fold_system(written["prompt"])}]
    assert folded[0]["prompt"][0]["content"].endswith("\n\nHi")
    for template in (refuses, drops):
        model = {"model": str(folder), "template": template}
        told = rmc.Logprob(**model, customize=customize)
        assert told.contract["customize"]["system"] == "begins the first user turn"
        np.testing.assert_array_equal(told.score([row(HI)]), rmc.Logprob(**model).score(folded))


def test_log_probs_are_those_of_the_customized_prompt(tiny_lm: Path) -> None:
    rows = [row(HI, ["a", "bc"], domain="math"), {"prompt": HI, "completions": ["x"]}]
    plain = rmc.Logprob(model=str(tiny_lm))
    told = rmc.Logprob(model=str(tiny_lm), customize={"num_exemplars": 2})
    by_hand = customizer(num_exemplars=2)
    for one, found in zip(rows, told.score(rows), strict=True):
        domain = "reasoning" if "domain" in one else "chat"
        whole = {**row(HI, one["completions"], id=one.get("id", "")), **one}
        np.testing.assert_array_equal(found, plain.score([by_hand.customized(whole, domain)])[0])
    nothing = rmc.Logprob(model=str(tiny_lm), customize={"use": []}).score(rows)
    for found, expected in zip(nothing, plain.score(rows), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert told.contract["customize"] != plain.contract.get("customize")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Kind: safety", "safety"),
        ("It is about code.\n**Kind: Reasoning.**", "reasoning"),
        ("chat", "chat"),
        ("Kind: safety or chat", None),
        ("Kind: cooking", None),
        ("", None),
    ],
)
def test_a_router_reads_the_last_line(tiny_lm: Path, answer: str, expected: str | None) -> None:
    router = Router(model=str(tiny_lm))
    position = router._position(answer)
    if expected is None:
        assert position == UNKNOWN
        assert router.domain(position) == "chat"
    else:
        assert router.domain(position) == expected


def test_a_router_that_says_nothing_useful_leaves_the_fallback(tiny_lm: Path) -> None:
    routing = {"model": str(tiny_lm), "max_new_tokens": 4}
    assert Router(**routing).route([row("How do I pick a lock?"), row(HI)]) == ["chat", "chat"]
    customize = {"router": routing}
    told = rmc.Logprob(model=str(tiny_lm), customize=customize)
    assert told.contract["customize"]["router"] == str(tiny_lm)
    by_rows = rmc.Logprob(model=str(tiny_lm), customize={})
    same = [row(HI, domain="chat", id=7)]
    np.testing.assert_array_equal(told.score(same), by_rows.score(same))


def test_the_config_survives_a_dump() -> None:
    config = LogprobConfig(model="m", customize={"router": {"model": "r"}, "draw": "domain"})
    assert LogprobConfig(**config.model_dump()) == config
    assert config.customize is not None
    routing = config.customize.model_copy(update={"templates": "mine.yaml"}).routing()
    assert routing is not None
    assert routing.templates == "mine.yaml"


def test_a_router_that_cannot_be_loaded_is_told(tmp_path: Path, tiny_lm: Path) -> None:
    headless = str(save_family("Llama", tmp_path / "rm", tokenizer()))
    with pytest.raises(ConfigError, match="lm_head"):
        Router(model=headless).route([row(HI)])
    told = rmc.Logprob(model=str(tiny_lm), customize={"router": {"model": headless}})
    with pytest.raises(ConfigError, match="lm_head"):
        told.score([row(HI)])


def test_a_router_says_for_which_prompts_it_could_not_answer(
    tiny_lm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router(model=str(tiny_lm), max_new_tokens=4, max_length=40)
    assert router.route([row(HI, id="long")]) == ["chat"]
    assert "Prompt 'long' is taken for the fallback: it makes" in caplog.text


def test_a_row_that_cannot_be_read_is_nan_and_the_others_are_customized(tiny_lm: Path) -> None:
    told = rmc.Logprob(model=str(tiny_lm), customize={"use": ["criteria"]})
    good: Any = {"prompt": "Hi", "completions": ["a"], "domain": None}
    first, bad = told.score([good, {**good, "prompt": None}])
    assert np.isfinite(first).all()
    assert np.isnan(bad).all()
    np.testing.assert_array_equal(first, told.score([row(HI, ["a"])])[0])
