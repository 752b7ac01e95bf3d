"""From a conversation to token ids: the part of the scoring contract that goes wrong in silence.

A chat template writes every special token itself, so its text is tokenized without adding any (no
second BOS). The built-in templates write none: the tokenizer adds its own, and an EOS token is
appended where the tokenizer has one and did not, as TRL does when it trains on plain text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from rm_cluster.conversation import readable
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds
from rm_cluster.types import Row

BUILT_IN = {
    "plain": (
        "{% for m in messages %}{{ '\n\n' }}"
        "{{ {'user': 'Human', 'assistant': 'Assistant'}.get(m.role, m.role | capitalize) }}: "
        "{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
    ),
    "concat": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
"""`plain`: turns as in HH transcripts. `concat`: contents one after the other (TRL's standard)."""


class Template:
    """Renders and tokenizes prompts with their completions.

    Args:
        tokenizer: A Hugging Face tokenizer.
        template: `plain`, `concat`, a .jinja file, Jinja text, or None for the tokenizer's own.
        max_length: Tokens that the model takes, or None for no limit.
        truncation: `error`, or `left_prompt` to cut the left of the prompt.
        name: Of the reward model, for messages.
        renderer: The tokenizer whose chat template and special tokens write the text; `tokenizer`
            itself if None.

    Raises:
        ConfigError: The template is no Jinja.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        max_length: int | None,
        truncation: str,
        name: str,
        *,
        renderer: Any = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer or tokenizer
        self._max_length = max_length
        self._truncation = truncation
        self.source, self._jinja = _resolve(self._renderer, template, name)
        self.is_chat = self.source not in BUILT_IN
        self.notice: str | None = None
        """What the user should know of it before anything runs."""
        if template is None and self.source == "plain":
            self.notice = (
                f"{name}: the tokenizer has no chat template, so turns are written as "
                "Human: ... Assistant: ...; set `template` to choose."
            )
        self.contract: dict[str, Any] = {
            "template": self.source,
            "template_hash": hashlib.sha256(self._jinja.encode()).hexdigest()[:16],
            "special_tokens": "by the template"
            if self.is_chat
            else "by the tokenizer, EOS at the end",
            "max_length": max_length,
            "truncation": truncation,
        }
        written = self._special_tokens(self._renderer)
        if written != self._special_tokens(tokenizer):
            self.contract["special_tokens_of_renderer"] = written

    def _special_tokens(self, tokenizer: Any) -> dict[str, str]:
        """Those that the template writes by their names."""
        named = tokenizer.special_tokens_map.items()
        return {name: str(token) for name, token in named if name in self._jinja}

    def takes_system(self) -> bool:
        """Whether the template writes a system turn: some refuse it, some leave it out."""
        probe = "what-a-system-turn-says"
        turns = [{"role": "system", "content": probe}, {"role": "user", "content": "x"}]
        try:
            return probe in self._apply(turns, add_generation_prompt=True)
        except Exception:  # a template raises what it likes
            return False

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        """Tokenize all completions of all rows in one call."""
        rendered = [self._render(row) for row in rows]
        texts = [text for group in rendered if isinstance(group, list) for text in group]
        tokens = iter(self._tokenize(texts))
        return [
            self._fit(row, [next(tokens) for _ in group])
            if isinstance(group, list)
            else EncodedGroup.failed(group)
            for row, group in zip(rows, rendered, strict=True)
        ]

    def _render(self, row: Row) -> list[str] | str:
        """The K texts of a row, or why there are none."""
        try:
            return self._texts(readable(row))
        except DataFormatError as error:
            return str(error)
        except Exception as error:  # a template may raise on purpose, or fail as any code does
            return f"the chat template refuses the conversation: {error}"[:500]

    def _texts(self, row: Row) -> list[str]:
        return [
            self._apply([*row["prompt"], {"role": "assistant", "content": completion}])
            for completion in row["completions"]
        ]

    def _apply(self, messages: Sequence[Any], **options: Any) -> str:
        text: str = self._renderer.apply_chat_template(
            list(messages), chat_template=self._jinja, tokenize=False, **options
        )
        return text

    def _tokenize(self, texts: list[str]) -> list[TokenIds]:
        if not texts:
            return []
        ids = self._tokenizer(texts, add_special_tokens=not self.is_chat, verbose=False)[
            "input_ids"
        ]
        eos = self._tokenizer.eos_token_id
        if not self.is_chat and eos is not None:
            ids = [one if one and one[-1] == eos else [*one, eos] for one in ids]
        return [np.asarray(one, dtype=np.int32) for one in ids]

    def _fit(self, row: Row, token_ids: list[TokenIds]) -> EncodedGroup:
        """Check every text against `max_length` and truncate as the contract says."""
        num_tokens = [len(ids) for ids in token_ids]
        if not all(num_tokens):
            return EncodedGroup.failed(f"completion {num_tokens.index(0)} has no tokens")
        if self._max_length is None or max(num_tokens, default=0) <= self._max_length:
            return EncodedGroup(token_ids, num_tokens, [False] * len(token_ids))
        too_long = f"completion %d makes %d tokens, max_length is {self._max_length}"
        if self._truncation == "error":
            longest = int(np.argmax(num_tokens))
            return EncodedGroup.failed(too_long % (longest, num_tokens[longest]))
        try:
            prompt = self._prompt_tokens(row)
        except Exception as error:  # as above
            return EncodedGroup.failed(f"the chat template refuses the prompt alone: {error}"[:500])
        for k, ids in enumerate(token_ids):
            room = self._num_shared(prompt, ids)
            if len(ids) - self._max_length > room:
                why = f"more than the {room} that it shares with the prompt would have to go"
                return EncodedGroup.failed(f"{too_long % (k, len(ids))}; {why}")
        return EncodedGroup(
            [self._cut_left(ids) for ids in token_ids],
            num_tokens,
            [length > self._max_length for length in num_tokens],
        )

    def _prompt_tokens(self, row: Row) -> TokenIds:
        """Of the prompt, up to where a completion begins."""
        text = self._apply(readable(row)["prompt"], add_generation_prompt=True)
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)

    def _num_shared(self, prompt: TokenIds, ids: TokenIds) -> int:
        """Tokens of a text that are the prompt's and may go: all but a leading special one.

        A generation prompt may hold what no text has, such as the beginning of a thought.
        """
        prompt, ids = (its[1:] if self._begins_specially(its) else its for its in (prompt, ids))
        size = min(len(prompt), len(ids))
        differ = np.flatnonzero(prompt[:size] != ids[:size])
        return int(differ[0]) if differ.size else size

    def _cut_left(self, ids: TokenIds) -> TokenIds:
        """Keep the end, and a leading special token (BOS, CLS) if there is one."""
        if self._max_length is None or len(ids) <= self._max_length:
            return ids
        head = ids[:1] if self._begins_specially(ids) else ids[:0]
        return np.concatenate([head, ids[len(ids) - self._max_length + len(head) :]])

    def _begins_specially(self, ids: TokenIds) -> bool:
        special = (self._tokenizer.bos_token_id, self._tokenizer.cls_token_id)
        return bool(len(ids)) and int(ids[0]) in special


def _resolve(tokenizer: Any, template: str | None, name: str) -> tuple[str, str]:
    """Return where the template comes from, and its Jinja text."""
    if template is None and tokenizer.chat_template is not None:
        source, jinja = "tokenizer", tokenizer.get_chat_template()
    elif template is None:
        source, jinja = "plain", BUILT_IN["plain"]
    elif template in BUILT_IN:
        source, jinja = template, BUILT_IN[template]
    elif "{{" in template or "{%" in template:
        source, jinja = "inline", template
    else:
        try:
            source, jinja = template, Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                f"{name}: cannot read the template {template!r}. It may be plain, concat, a .jinja "
                "file, or Jinja text."
            ) from None
    try:
        jinja2.Environment().parse(jinja)
    except jinja2.TemplateSyntaxError as error:
        # transformers' own tags (generation) are not known to a bare environment
        if "generation" not in str(error):
            raise ConfigError(f"{name}: the template {source!r} is no Jinja: {error}") from None
    return source, jinja
