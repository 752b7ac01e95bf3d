from __future__ import annotations

import itertools
import random

import pytest

from rm_cluster.sandbox.tasks import (
    FAMILIES,
    LANGUAGES,
    Task,
    chattiness,
    draw_distinct,
    draw_tasks,
    package,
    part,
    verify,
)


def tasks_of(part_name: str, num_tasks: int, seed: int = 0) -> list[Task]:
    drawn = draw_tasks(random.Random(seed), part_name)  # type: ignore[arg-type]
    return list(itertools.islice(drawn, num_tasks))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("62", True),
        ("It is 62.", True),
        ("Sure! It is 62.", True),
        ("Claro! Es 62.", True),
        ("It is 42.", False),
        ("62 62", False),
        ("It is 62. Or 42.", False),
        ("Sorry, no.", False),
        ("", False),
        ("6\n2", False),
    ],
)
def test_only_the_answer_in_its_packaging_is_right(text: str, right: bool) -> None:
    task = Task("MATH", "English", "52 plus 10", "62", "42", hard=False)
    assert verify(task, text) == right


@pytest.mark.parametrize(
    ("family", "prompt", "answer", "mistake"),
    [
        ("MMLU-Pro", "capital of Peru: Oslo or Lima", "Lima", "Oslo"),
        ("MATH", "95 plus 10", "105", "85"),  # the sign is misread
        ("GPQA", "7 h in min", "420", "700"),  # 7 x 60; every factor is taken for a hundred
        ("MBPP-Plus", "'toma'[1:3] is", "om", "to"),  # counting from one
        ("IFEval", "toma with dashes", "t-o-m-a", "to-ma"),
    ],
)
def test_worked_cases_are_drawn_with_their_answers(
    family: str, prompt: str, answer: str, mistake: str
) -> None:
    rng = random.Random(0)
    part_name = part(Task(family, "English", prompt, answer, mistake, hard=False))
    task = next(t for t in draw_tasks(rng, part_name, families=(family,)) if t.prompt == prompt)
    assert (task.answer, task.mistake) == (answer, mistake)


def test_answers_verify_and_mistakes_do_not() -> None:
    for task in tasks_of("training", 2000):
        for style in range(3):
            assert verify(task, package(task.answer, task.language, style))
            assert not verify(task, package(task.mistake, task.language, style)), task


def test_style_is_told_from_the_text() -> None:
    for task in tasks_of("training", 200):
        for style in range(3):
            assert chattiness(package(task.answer, task.language, style)) == style


def test_no_prompt_is_in_two_parts() -> None:
    prompts = {
        name: {task.prompt for task in tasks_of(name, 5000)} for name in ("training", "ppe", "pool")
    }
    assert not prompts["training"] & (prompts["ppe"] | prompts["pool"])
    assert not prompts["ppe"] & prompts["pool"]
    assert {part(task) for task in tasks_of("pool", 50)} == {"pool"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_prompts_enough_in_every_part(family: str) -> None:
    rng = random.Random(0)
    for part_name, num_tasks in (("training", 300), ("ppe", 64), ("pool", 32)):
        tasks = draw_distinct(rng, part_name, family, num_tasks)  # type: ignore[arg-type]
        assert len({task.prompt for task in tasks}) == num_tasks
        assert {task.family for task in tasks} == {family}


def test_a_quarter_is_spanish_and_both_difficulties_occur() -> None:
    tasks = tasks_of("ppe", 4000)
    spanish = sum(task.language == LANGUAGES[1] for task in tasks)
    # 1000 expected, standard deviation about 27 and a little more for the uneven split
    assert 850 < spanish < 1150
    for family in FAMILIES:
        assert {task.hard for task in tasks if task.family == family} == {True, False}
