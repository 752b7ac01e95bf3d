"""From a conversation to prompt tokens and completion tokens, each made on its own.

The prompt is rendered with its generation prompt and tokenized; the completion is what the template
writes after that, tokenized by itself. So the prompt's tokens begin every text of a group, and
which tokens are the completion's is never a matter of merges across the border. What a template
writes before every completion, such as Qwen 3's empty thoughts, is the prompt's; what it writes
after one is cut down to the one token that ends the turn, which a model can emit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rm_cluster.conversation import readable
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds
from rm_cluster.scorers.template import Template
from rm_cluster.types import Message, Row

_PROBE = "completion"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""
_BEFORE = "\n"
"""Stands before a completion while it is tokenized, and melts into no token of it."""


class ContinuationTemplate(Template):
    """Renders and tokenizes prompts and completions apart.

    Takes the arguments of `Template`, and `include_eos`: whether the token that ends the turn
    belongs to the completion.

    Raises:
        ConfigError: The template is no Jinja, or there is no such token.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        max_length: int | None,
        truncation: str,
        name: str,
        *,
        include_eos: bool,
        renderer: Any = None,
    ) -> None:
        super().__init__(tokenizer, template, max_length, truncation, name, renderer=renderer)
        self._before, self._tail = self._find_frame()
        self.end: int | None = self._find_end() if include_eos else None
        if include_eos and self.end is None:
            raise ConfigError(
                f"{name}: neither its template nor its tokenizer has a token that ends a turn. Set "
                "the tokenizer's eos_token, or, for log-probs alone, include_eos: false."
            )
        self._spaced = self._begins_with_a_space()
        self.contract["boundary"] = "prompt and completion tokenized apart" + (
            ", no space added" if self._spaced else ""
        )
        if self._before:
            self.contract["before_completions"] = self._before
        self.contract["end_of_turn"] = (
            None if self.end is None else tokenizer.convert_ids_to_tokens(self.end)
        )

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        """Tokenize all rows; scored tokens are marked as `mark` does."""
        rendered = [self._render_apart(row) for row in rows]
        parts = [part for group in rendered if not isinstance(group, str) for part in group]
        texts = list(dict.fromkeys(prompt for prompt, _ in parts))
        prompts = dict(zip(texts, self.encode_prompts(texts), strict=True))
        completions = iter(self._tokenize_completions([completion for _, completion in parts]))
        return [
            EncodedGroup.failed(group)
            if isinstance(group, str)
            else self._fit_apart([(prompts[prompt], next(completions)) for prompt, _ in group])
            for group in rendered
        ]

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the completion begins."""
        return self._apply(messages, add_generation_prompt=True)

    def encode_prompts(self, texts: list[str]) -> list[TokenIds]:
        """Token ids of rendered prompts, without an end."""
        if not texts:
            return []
        ids = self._tokenizer(texts, add_special_tokens=not self.is_chat, verbose=False)[
            "input_ids"
        ]
        if not self.is_chat:
            # some tokenizers end every text, as if nothing were to follow
            ends = (self._tokenizer.eos_token_id, self._tokenizer.sep_token_id)
            ids = [one[:-1] if one and one[-1] in ends else one for one in ids]
        return [np.asarray(one, dtype=np.int32) for one in ids]

    def _render_apart(self, row: Row) -> list[tuple[str, str]] | str:
        """The prompt and the completion of each of the K texts of a row, or why there are none."""
        try:
            row = readable(row)
            prompt, texts = self.render_prompt(row["prompt"]), self._texts(row)
        except DataFormatError as error:
            return str(error)
        except Exception as error:  # as in `Template`
            return f"the chat template refuses the conversation: {error}"[:500]
        if not all(text.startswith(prompt) for text in texts):
            return (
                "the chat template does not begin the conversation with the prompt: what asks for "
                "a reply is in none, such as the beginning of a thought; set `template` to another"
            )
        return [self._part(text, len(prompt)) for text in texts]

    def _part(self, text: str, num_prompt: int) -> tuple[str, str]:
        # a completion with thoughts of its own has none of the template's before it
        if text.startswith(self._before, num_prompt):
            num_prompt += len(self._before)
        return text[:num_prompt], text[num_prompt:].removesuffix(self._tail)

    def _tokenize_completions(self, texts: list[str]) -> list[TokenIds]:
        if not texts:
            return []
        ids = self._ids_after(texts) if self._spaced else self._ids(texts)
        end = [] if self.end is None else [self.end]
        return [np.asarray([*one, *end], dtype=np.int32) for one in ids]

    def _ids_after(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts that begin nothing, so that no space comes before them."""
        (before,), longer = self._ids([_BEFORE]), self._ids([_BEFORE + text for text in texts])
        return [
            ids[len(before) :] if ids[: len(before)] == before else self._ids([text])[0]
            for text, ids in zip(texts, longer, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _begins_with_a_space(self) -> bool:
        """Whether the tokenizer adds a space to what begins a text, as Llama 2's does.

        A completion does not begin its text.
        """
        (ids,) = self._ids([_PROBE])
        first = self._tokenizer.convert_ids_to_tokens(ids[:1])
        return bool(first) and str(first[0]).startswith(_SPACE)

    def _fit_apart(self, parts: list[tuple[TokenIds, TokenIds]]) -> EncodedGroup:
        """Check every text against `max_length` and cut the prompt as the contract says."""
        if not all(len(prompt) for prompt, _ in parts):
            return EncodedGroup.failed(
                "the prompt has no tokens, so the first of the completion has no probability"
            )
        limit = self._max_length
        lengths = [len(prompt) + len(completion) for prompt, completion in parts]
        too_long = [limit is not None and length > limit for length in lengths]
        if any(too_long):
            assert limit is not None
            longest = int(np.argmax(lengths))
            message = f"completion {longest} makes {lengths[longest]} tokens, max_length is {limit}"
            if self._truncation == "error":
                return EncodedGroup.failed(message)
            if any(len(completion) >= limit for _, completion in parts):
                return EncodedGroup.failed(f"{message}; no prompt would be left")
        return EncodedGroup(
            [mark(self._cut_prompt(prompt, len(c)), c) for prompt, c in parts],
            [len(completion) for _, completion in parts],
            too_long,
        )

    def _cut_prompt(self, prompt: TokenIds, num_completion: int) -> TokenIds:
        if self._max_length is None or len(prompt) + num_completion <= self._max_length:
            return prompt
        room = self._max_length - num_completion
        head = prompt[:1] if self._begins_specially(prompt) and room > 1 else prompt[:0]
        return np.concatenate([head, prompt[len(prompt) - room + len(head) :]])

    def _find_frame(self) -> tuple[str, str]:
        """What the template writes before a completion, after the generation prompt, and after it.

        Spaces alone are not told from the completion's own, with which tokenizers merge them.
        """
        prompt: Message = {"role": "user", "content": "prompt"}
        try:
            text = self._apply([prompt, {"role": "assistant", "content": _PROBE}])
            begin = self.render_prompt([prompt])
        except Exception:  # a template that refuses this may yet take the rows
            return "", ""
        before, _, tail = text.rpartition(_PROBE)
        before = before.removeprefix(begin).rstrip(" ") if before.startswith(begin) else ""
        return (before if before.strip() else ""), tail

    def _find_end(self) -> int | None:
        """The first special token after a completion, else the tokenizer's EOS."""
        ids = self._tokenizer(self._tail, add_special_tokens=False)["input_ids"]
        added = self._tokenizer.added_tokens_decoder
        special = {*self._tokenizer.all_special_ids, *(i for i in added if added[i].special)}
        end: int | None = self._tokenizer.eos_token_id
        return next((i for i in ids if i in special), end)


def mark(prompt: TokenIds, completion: TokenIds) -> TokenIds:
    """One text, in which each scored token stands as its complement, `~id`, which is negative."""
    return np.concatenate([prompt, ~completion])


def unmark(text: TokenIds) -> tuple[TokenIds, int]:
    """The token ids of a marked text, and how many of them are the prompt's."""
    is_scored = text < 0
    return np.where(is_scored, ~text, text), len(text) - int(is_scored.sum())
