"""Small tasks whose answers can be verified exactly, and completions that get them right or wrong.

A completion counts as right when the verifier says so, never because it was meant to be.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

WORDS = (
    *("acorn", "badge", "cabin", "daisy", "eagle", "fable", "ghost", "honey", "igloo", "jelly"),
    *("koala", "lemon", "mango", "nylon", "ocean", "piano", "quail", "raven", "salad", "tiger"),
    *("urban", "vapor", "whale", "yacht", "zebra"),
)


class Task(NamedTuple):
    """A prompt, its answer, and an answer that is wrong in a way that people get it wrong."""

    domain: str
    prompt: str
    answer: str
    mistake: Callable[[random.Random], str]


class Completion(NamedTuple):
    """A reply with its style, from 0 (the bare answer) to 2 (chatty)."""

    text: str
    style: int


def arithmetic(rng: random.Random) -> Task:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    sign = rng.choice("+*")
    answer = a + b if sign == "+" else a * b
    return Task(
        "math",
        f"{a} {sign} {b} = ?",
        str(answer),
        lambda r: str(answer + r.choice((-2, -1, 1, 10))),
    )


def largest(rng: random.Random) -> Task:
    numbers = rng.sample(range(10, 100), 3)
    return Task(
        "knowledge",
        f"Which is the largest: {', '.join(map(str, numbers))}?",
        str(max(numbers)),
        lambda r: str(r.choice(sorted(numbers)[:2])),
    )


def conversion(rng: random.Random) -> Task:
    amount = rng.randint(2, 9)
    unit, small, factor = rng.choice((("km", "m", 1000), ("h", "min", 60), ("m", "cm", 100)))
    return Task(
        "science",
        f"{amount} {unit} in {small}?",
        str(amount * factor),
        lambda r: str(r.choice((amount * factor * 10, amount * factor // 10, factor))),
    )


def expression(rng: random.Random) -> Task:
    word, index = rng.choice(WORDS), rng.randrange(5)
    others = sorted(set(word) - {word[index]})
    return Task("code", f"'{word}'[{index}] in Python?", word[index], lambda r: r.choice(others))


def instruction(rng: random.Random) -> Task:
    word = rng.choice(WORDS)
    return Task("instructions", f"Write {word} in capitals.", word.upper(), lambda r: word.title())


FAMILIES = (arithmetic, largest, conversion, expression, instruction)


def draw_task(rng: random.Random) -> Task:
    """Draw a task of any family."""
    return rng.choice(FAMILIES)(rng)


def draw_completion(task: Task, rng: random.Random) -> Completion:
    """Draw a reply: right half of the time, and the chattier the more often it is wrong."""
    mistaken = rng.random() < 0.5
    said = task.mistake(rng) if mistaken else task.answer
    style = rng.choices((0, 1, 2), weights=(2, 3, 4) if mistaken else (4, 3, 2))[0]
    template = ("{}", "It is {}.", "Sure! It is {}.")[style]
    return Completion(template.format(said), style)


def verify(task: Task, text: str) -> bool:
    """Whether the reply, without its packaging, is the answer."""
    return re.sub(r"^(Sure! )?(It is )?", "", text).rstrip(".") == task.answer
