from __future__ import annotations

import numpy as np
import pytest

from rm_cluster.best_of_n import select, token_overlap
from rm_cluster.errors import ConfigError

TEXTS = ["The cat sat.", "the cat", "dogs dogs run", "dogs run"]


def test_f1_counts_shared_words_twice_over_all() -> None:
    (found,) = token_overlap([TEXTS])
    # {the, cat, sat, .} and {the, cat} share 2 of 4 + 2; {dogs, dogs, run} and {dogs, run} 2 of 5
    assert found[0, 1] == pytest.approx(2 * 2 / 6)
    assert found[2, 3] == pytest.approx(2 * 2 / 5)
    assert found[0, 2] == 0


def test_jaccard_is_shared_over_either() -> None:
    (found,) = token_overlap([TEXTS], "jaccard")
    assert found[0, 1] == pytest.approx(2 / 4)
    assert found[2, 3] == pytest.approx(2 / 3)


def test_cosine_is_that_of_counts() -> None:
    (found,) = token_overlap([TEXTS], "cosine")
    assert found[0, 1] == pytest.approx(2 / np.sqrt(4 * 2))
    # (2, 1) and (1, 1): 3 / sqrt(5 * 2)
    assert found[2, 3] == pytest.approx(3 / np.sqrt(10))


@pytest.mark.parametrize("measure", ["f1", "jaccard", "cosine"])
def test_symmetric_one_on_the_diagonal_and_padded_with_zeros(measure: str) -> None:
    found = token_overlap([TEXTS, ["", " ", "a"]], measure)  # type: ignore[arg-type]
    assert found.shape == (2, 4, 4)
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))
    assert (found[0].diagonal() == 1).all()
    # two texts without words are alike, and unlike all others
    assert found[1, 0, 1] == found[1, 0, 0] == 1
    assert found[1, 0, 2] == 0
    assert not found[1, 3].any()
    assert not token_overlap([["", "  "]], measure)[0, 0, 1] - 1  # type: ignore[arg-type]


def test_mbr_picks_what_agrees_with_most() -> None:
    pools = [["it is 4", "it is 4", "maybe 5"], ["no", "it is 7", "it is 7"]]
    assert select("mbr", np.zeros((2, 3)), similarity_PNN=token_overlap(pools)).tolist() == [0, 1]


def test_an_unknown_measure_is_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'jaccard'"):
        token_overlap([TEXTS], "jacard")  # type: ignore[arg-type]
