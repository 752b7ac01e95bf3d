"""Ray Tune's bridge to a study, without Ray: what is tried when several searches share a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

import rm_cluster as rmc
from rm_cluster.errors import ConfigError
from rm_cluster.parsing import parse_config
from rm_cluster.searching.choice import Choice, try_choice
from rm_cluster.searching.pool import SearchPool
from rm_cluster.searching.reading import read_pool
from rm_cluster.searching.study import Space, done, open_study
from rm_cluster.searching.tuning import StudySearch
from tests.search_pools import pool_records, write_pool


class OneOfSeveral:
    """A search that may work on a study beside others."""

    def __init__(self, folder: Path, num_trials: int, storage: str) -> None:
        path = write_pool(folder / "pool.jsonl", pool_records(num_prompts=8))
        given = {"pool": path, "output_dir": str(folder), "storage": storage}
        run = parse_config(rmc.SearchConfig, {**given, "num_trials": num_trials})
        self._pool: SearchPool = read_pool(run).pool
        space = Space(["m0", "m1"], [], ["bon", "rbon_l"], [2, 8], ["none"], (0.1, 10.0))
        self.study: optuna.Study = open_study(run, space, self._pool)
        self._searcher = StudySearch(space, self.study, ["value"], num_trials, 8, seed=0)
        self._num = 0

    def begin(self) -> tuple[str, Any]:
        self._num += 1
        return str(self._num), self._searcher.suggest(str(self._num))

    def end(self, begun: tuple[str, Any]) -> None:
        trial_id, params = begun
        value = float(try_choice(self._pool, Choice.of(params)).value_P.mean())
        names = ("value", "tokens", "kl", "num_prompts", "seconds")
        result = dict.fromkeys(names, 0.0) | {"value": value, "num_prompts": 8}
        self._searcher.on_trial_result(trial_id, {**result, "training_iteration": 1})
        self._searcher.on_trial_complete(trial_id, result)


@pytest.mark.parametrize("storage", ["{}/study.journal", "sqlite:///{}/study.db"])
def test_two_searches_on_one_study_do_the_work_of_one(tmp_path: Path, storage: str) -> None:
    where = storage.format(tmp_path)
    first = OneOfSeveral(tmp_path, 9, where)
    begun = first.begin()
    # the second takes what the first is at for a trial that was left, and tries it as well
    second = OneOfSeveral(tmp_path, 9, where)
    also = second.begin()
    assert also[1] == begun[1]
    second.end(also)
    first.end(begun)
    for _ in range(9):
        of_both = [(search, search.begin()) for search in (first, second)]
        for search, trial in of_both:
            if trial[1] != Searcher.FINISHED:
                search.end(trial)
    trials = done(first.study)
    assert len(trials) == 9
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 9


def test_a_trial_that_was_put_back_meanwhile_is_heard(tmp_path: Path) -> None:
    where = f"{tmp_path}/study.journal"
    first = OneOfSeveral(tmp_path, 3, where)
    begun = first.begin()
    OneOfSeveral(tmp_path, 3, where)
    first.end(begun)
    assert [trial.number for trial in done(first.study)] == [0]


@pytest.mark.parametrize("cut", [1, 20])
def test_a_journal_whose_last_line_was_cut_off_is_gone_on_with(tmp_path: Path, cut: int) -> None:
    journal = tmp_path / "study.journal"
    search = OneOfSeveral(tmp_path, 4, str(journal))
    search.end(search.begin())
    search.end(search.begin())
    journal.write_bytes(journal.read_bytes()[:-cut])
    again = OneOfSeveral(tmp_path, 4, str(journal))
    # the line said that the second trial is complete
    assert [trial.number for trial in done(again.study)] == [0]
    while (trial := again.begin())[1] != Searcher.FINISHED:
        again.end(trial)
    assert [trial.number for trial in done(OneOfSeveral(tmp_path, 4, str(journal)).study)] == [
        *range(4)
    ]


def test_a_storage_that_is_no_journal_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("a line\nand half a line")
    with pytest.raises(ConfigError, match="Cannot open the storage"):
        OneOfSeveral(tmp_path, 4, str(other))
    assert other.read_text() == "a line\nand half a line"
