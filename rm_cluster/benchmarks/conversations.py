"""Finding the prompt that two conversations share, in the notations that data sets use."""

from __future__ import annotations

import os
import re

from rm_cluster.conversation import messages
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message

_TURN = re.compile(r"\n\n(Human|Assistant):")


def split_conversations(
    first: list[Message], second: list[Message]
) -> tuple[list[Message], list[str]]:
    """Take the shared turns as the prompt; one assistant turn must be left on each side.

    An empty `second` stands for no second conversation.
    """
    conversations = [conversation for conversation in (first, second) if conversation]
    longest = min(map(len, conversations)) - 1
    shared = 0
    while shared < longest and (len(conversations) == 1 or first[shared] == second[shared]):
        shared += 1
    rests = [conversation[shared:] for conversation in conversations]
    for rest in rests:
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in rest)
            raise DataFormatError(
                "conversations must differ in one last assistant turn only, after the shared turns "
                f"come: {roles[:100]}"
            )
    return first[:shared], [rest[0]["content"] for rest in rests]


def split_texts(chosen: str, rejected: str) -> tuple[list[Message], list[str]]:
    """Split whole texts at the end of what they share: turns of a transcript, else characters."""
    if _TURN.match(chosen) and _TURN.match(rejected):
        return _split_transcripts(chosen, rejected)
    if chosen == rejected:
        raise DataFormatError("there is no prompt, and chosen and rejected are equal")
    shared = len(os.path.commonprefix([chosen, rejected]))  # noqa: RUF071 - of characters
    if shared and chosen[shared - 1] == " ":
        shared -= 1  # as TRL's extract_prompt: a space belongs to the completion
    if not shared:
        raise DataFormatError("there is no prompt, and chosen and rejected share no beginning")
    return messages(chosen[:shared], "prompt"), [chosen[shared:], rejected[shared:]]


def _split_transcripts(chosen: str, rejected: str) -> tuple[list[Message], list[str]]:
    """Split transcripts after the turns that they share.

    A side with more than one turn left (a reply in two goes) keeps its text as it stands.
    """
    sides = [list(_TURN.finditer(side)) for side in (chosen, rejected)]
    turns = [
        [
            (mark.group(1), side[mark.end() : following])
            for mark, following in zip(
                marks, [*(m.start() for m in marks[1:]), len(side)], strict=True
            )
        ]
        for side, marks in zip((chosen, rejected), sides, strict=True)
    ]
    shared = 0
    while shared < min(map(len, turns)) - 1 and turns[0][shared] == turns[1][shared]:
        shared += 1
    if shared == 0 or any(side[shared][0] != "Assistant" for side in turns):
        raise DataFormatError("transcripts must share a beginning and differ in Assistant turns")
    prompt = [
        Message(role="user" if who == "Human" else "assistant", content=said.strip())
        for who, said in turns[0][:shared]
    ]
    replies = [
        side[marks[shared].end() :].strip()
        for side, marks in zip((chosen, rejected), sides, strict=True)
    ]
    return prompt, replies


def helpsteer2_turns(prompt: str) -> list[Message]:
    """HelpSteer2 joins turns by `<extra_id_1>Role`, the first being the user's."""
    first, *rest = prompt.split("<extra_id_1>")
    turns = [Message(role="user", content=first.strip())]
    for turn in rest:
        role, _, content = turn.partition("\n")
        turns.append(Message(role=role.strip().lower() or "user", content=content.strip()))
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()
    return [{**turn, "role": turn["role"].replace("human", "user")} for turn in turns]
