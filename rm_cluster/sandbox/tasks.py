"""Small tasks whose answers can be verified exactly, in five families and two languages.

The families stand in for the five benchmarks of PPE's correctness side. A reply counts as right
when the verifier says so, never because it was meant to be.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from rm_cluster.types import Row

CAPITALS = {
    **{"Chile": "Santiago", "China": "Beijing", "Cuba": "Havana", "Egypt": "Cairo"},
    **{"Fiji": "Suva", "Ghana": "Accra", "Iran": "Tehran", "Italy": "Rome"},
    **{"Japan": "Tokyo", "Kenya": "Nairobi", "Latvia": "Riga", "Mali": "Bamako"},
    **{"Norway": "Oslo", "Peru": "Lima", "Qatar": "Doha", "Spain": "Madrid"},
}
UNITS = (
    *(("km", "m", 1000), ("kg", "g", 1000), ("m", "cm", 100), ("cm", "mm", 10)),
    *(("h", "min", 60), ("d", "h", 24)),
)
CONSONANTS, VOWELS = "bdklmnprst", "aeiou"

Part = Literal["training", "ppe", "pool"]
"""No prompt belongs to two of them."""

LANGUAGES = ("English", "Spanish")
STYLES = {
    "English": ("{}", "It is {}.", "Sure! It is {}."),
    "Spanish": ("{}", "Es {}.", "Claro! Es {}."),
}
"""How a reply is packaged, from the bare answer (0) to the chatty one (2)."""

_PACKAGING = re.compile(
    r"(?P<sure>Sure! |Claro! )?(?P<it>It is |Es )?(?P<answer>.*?)\.?", re.DOTALL
)


class Task(NamedTuple):
    """A prompt with its answer.

    Attributes:
        family: The PPE benchmark that the task stands in for.
        language: The language of the prompt.
        prompt: What is asked.
        answer: The right answer, without packaging.
        mistake: The answer that is commonly given and wrong.
        hard: Whether it takes more than the family's simplest case.
    """

    family: str
    language: str
    prompt: str
    answer: str
    mistake: str
    hard: bool


def knowledge(rng: random.Random, spanish: bool) -> Task:
    country, other = rng.sample(sorted(CAPITALS), 2)
    answer, mistake = CAPITALS[country], CAPITALS[other]
    first, second = rng.sample((answer, mistake), 2)
    words = ("de", "o") if spanish else ("of", "or")
    prompt = f"capital {words[0]} {country}: {first} {words[1]} {second}"
    return _task("MMLU-Pro", spanish, prompt, answer, mistake, hard=first == mistake)


def arithmetic(rng: random.Random, spanish: bool) -> Task:
    a, b, add = rng.randint(31, 99), rng.choice((10, 20)), rng.random() < 0.5
    sign = ("mas" if spanish else "plus") if add else ("menos" if spanish else "minus")
    answer = a + b if add else a - b
    mistake = a - b if add else a + b
    hard = len(str(answer)) != len(str(a))
    return _task("MATH", spanish, f"{a} {sign} {b}", str(answer), str(mistake), hard)


def conversion(rng: random.Random, spanish: bool) -> Task:
    amount = rng.randint(2, 60)
    unit, small, factor = rng.choice(UNITS)
    prompt = f"{amount} {unit} {'en' if spanish else 'in'} {small}"
    # every factor is taken for a hundred, and that for a thousand
    mistake = amount * (1000 if factor == 100 else 100)
    hard = factor in (60, 24)
    return _task("GPQA", spanish, prompt, str(amount * factor), str(mistake), hard)


def expression(rng: random.Random, spanish: bool) -> Task:
    word = _word(rng)
    start, stop = rng.choice(((1, 2), (2, 3), (3, 4), (1, 3), (2, 4)))
    index = str(start) if stop == start + 1 else f"{start}:{stop}"
    # as if counting began at one
    mistake = word[start - 1 : stop - 1]
    prompt = f"'{word}'[{index}] {'es' if spanish else 'is'}"
    return _task("MBPP-Plus", spanish, prompt, word[start:stop], mistake, hard=":" in index)


def instruction(rng: random.Random, spanish: bool) -> Task:
    word = _word(rng)
    english, translated, answer, mistake = rng.choice(
        (
            ("in capitals", "en mayusculas", word.upper(), word.title()),
            ("twice", "dos veces", f"{word} {word}", word),
            ("with dashes", "con guiones", "-".join(word), f"{word[:2]}-{word[2:]}"),
        )
    )
    prompt = f"{word} {translated if spanish else english}"
    return _task("IFEval", spanish, prompt, answer, mistake, hard=english == "with dashes")


_DRAW: dict[str, Callable[[random.Random, bool], Task]] = {
    "MMLU-Pro": knowledge,
    "MATH": arithmetic,
    "GPQA": conversion,
    "MBPP-Plus": expression,
    "IFEval": instruction,
}
FAMILIES = tuple(_DRAW)


def part(task: Task) -> Part:
    """Which part of the world the prompt belongs to; a hash of it decides."""
    eighth = hashlib.sha256(task.prompt.encode()).digest()[0] % 8
    return "pool" if eighth == 0 else "ppe" if eighth <= 2 else "training"


def draw_tasks(
    rng: random.Random, of: Part, *, families: Sequence[str] = FAMILIES, spanish: float = 0.25
) -> Iterator[Task]:
    """Draw tasks of one part without end, a share of them in Spanish; prompts may come again."""
    while True:
        task = _DRAW[rng.choice(families)](rng, rng.random() < spanish)
        if part(task) == of:
            yield task


def draw_distinct(rng: random.Random, of: Part, family: str, num_tasks: int) -> list[Task]:
    """Draw tasks of one family, each prompt once."""
    tasks: dict[str, Task] = {}
    for task in draw_tasks(rng, of, families=(family,)):
        tasks[task.prompt] = task
        if len(tasks) == num_tasks:
            break
    return list(tasks.values())


def package(answer: str, language: str, style: int) -> str:
    """Say an answer in one of the styles of its language."""
    return STYLES[language][style].format(answer)


def verify(task: Task, text: str) -> bool:
    """Whether the reply, without its packaging, is the answer."""
    return _unpack(text)["answer"] == task.answer


def verify_row(row: Row, completion: str) -> bool:
    """Whether a completion is the answer that stands with the prompt in `prompts.jsonl`."""
    answer: str = json.loads(row["metadata"] or "{}")["answer"]
    return _unpack(completion)["answer"] == answer


def chattiness(text: str) -> int:
    """The style of a reply, told from its packaging: 0 to 2."""
    parts = _unpack(text)
    return (parts["sure"] is not None) + (parts["it"] is not None)


def _unpack(text: str) -> dict[str, str | None]:
    match = _PACKAGING.fullmatch(text)
    assert match is not None
    return match.groupdict()


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(2))


def _task(family: str, spanish: bool, prompt: str, answer: str, mistake: str, hard: bool) -> Task:
    return Task(family, LANGUAGES[spanish], prompt, answer, mistake, hard)
