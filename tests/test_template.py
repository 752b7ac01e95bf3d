from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rm_cluster.errors import ConfigError
from rm_cluster.scorers.template import Template
from tests.models import tokenizer
from tests.rows import row

ROW = row([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], ["one", "three"])


def template(
    name: str | None = None,
    max_length: int | None = None,
    truncation: str = "error",
    **changes: Any,
) -> tuple[Any, Template]:
    tok = tokenizer(**changes)
    return tok, Template(tok, name, max_length, truncation, "mine")


def texts(tok: Any, found: Template) -> list[str]:
    (group,) = found.encode([ROW])
    assert group.error is None
    return [tok.decode(ids) for ids in group.token_ids]


def test_the_tokenizers_template_writes_its_special_tokens_once() -> None:
    tok, found = template()
    assert texts(tok, found) == ["<s><S>U<one</s>", "<s><S>U<three</s>"]
    assert found.contract["template"] == "tokenizer"


def test_plain_writes_turns_and_ends_with_eos() -> None:
    tok, found = template("plain")
    assert texts(tok, found)[0] == "\n\nSystem: S\n\nHuman: U\n\nAssistant: one</s>"


def test_concat_is_trls_standard_format() -> None:
    tok, found = template("concat")
    assert texts(tok, found) == ["SUone</s>", "SUthree</s>"]


def test_a_tokenizer_without_template_gets_plain() -> None:
    _, found = template(chat_template=None)
    assert found.source == "plain"


def test_a_file_or_text_of_jinja(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    file = tmp_path / "mine.jinja"
    file.write_text(jinja)
    for name in (jinja, str(file)):
        tok, found = template(name)
        assert texts(tok, found)[0] == "[S][U][one]"
    hashes = {template(name)[1].contract["template_hash"] for name in (jinja, str(file))}
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["nowhere.jinja", "plian", "{% for %}", "{{ unclosed"])
def test_what_is_no_template(name: str) -> None:
    with pytest.raises(ConfigError, match="mine: "):
        template(name)


def test_a_conversation_that_the_template_refuses_is_the_rows_error() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    _, found = template(refusing)
    refused, fine = found.encode([ROW, row("U")])
    assert "no system" in (refused.error or "")
    assert fine.error is None


def test_too_long_is_an_error_by_default() -> None:
    _, found = template(max_length=10)
    (group,) = found.encode([ROW])
    # <s> > S > U < t h r e e </s> with `>`/`<` per turn: 1 + 2 + 2 + 6 + 1
    assert group.error == "completion 1 makes 12 tokens, max_length is 10"


def test_left_prompt_cuts_the_prompt_and_keeps_bos_and_completion() -> None:
    tok, found = template(max_length=10, truncation="left_prompt")
    (group,) = found.encode([ROW])
    assert group.truncated == [False, True]
    assert group.num_tokens == [10, 12]
    assert [len(ids) for ids in group.token_ids] == [10, 10]
    cut = tok.decode(group.token_ids[1])
    assert cut.startswith("<s>")
    assert cut.endswith("U<three</s>")


def test_left_prompt_never_cuts_the_completion() -> None:
    _, found = template(max_length=6, truncation="left_prompt")
    (group,) = found.encode([ROW])
    assert "would have to go" in (group.error or "")


def test_left_prompt_counts_no_beginning_of_a_thought_that_is_in_no_text() -> None:
    jinja = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
    )
    one = row([{"role": "user", "content": "0123"}], ["abcdefghijklmnopqrstuvwxyz"])
    for max_length in range(20, 60):
        tok, found = template(jinja, max_length=max_length, truncation="left_prompt")
        (group,) = found.encode([one])
        if group.error is None:
            assert tok.decode(group.token_ids[0]).endswith("abcdefghijklmnopqrstuvwxyz")
        else:
            assert max_length < len("abcdefghijklmnopqrstuvwxyz")


def test_each_text_has_the_room_of_what_it_shares_with_the_prompt() -> None:
    jinja = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}ab{% endif %}"
    )
    one = row([{"role": "user", "content": "0123456789"}], ["ab", "abcdef", "x"])
    _, found = template(jinja, max_length=8, truncation="left_prompt")
    (group,) = found.encode([one])  # the third shares no "ab", and loses but three tokens
    assert group.error is None
    assert [len(ids) for ids in group.token_ids] == [8, 8, 8]


def test_every_length_is_kept_or_refused() -> None:
    for max_length in range(1, 15):
        _, found = template(max_length=max_length, truncation="left_prompt")
        (group,) = found.encode([ROW])
        if group.error is None:
            assert all(len(ids) <= max_length for ids in group.token_ids)
            assert group.truncated == [length > max_length for length in group.num_tokens]
