"""Pools of candidates as arrays, checked once at the door.

A pool holds the candidates of one prompt. Where the reward is nan there is no candidate: pools of
different sizes are padded so, and a candidate whose scoring failed is left out so. It is never
picked and has no part in any mean or law over the pool. How many there were is for the caller to
count and to say.

Shapes: P prompts, N candidates (of the largest pool).
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.metrics.judged import Bools, Floats, Ints

MEAN_DECIMALS = 11
"""Of mean similarities: equal ones are to tie, whatever the order of summing, and similarities
themselves are rounded to 12."""


class Pools(NamedTuple):
    """Rewards of candidates; -inf where there is none, so that no maximum falls there.

    Attributes:
        rewards_PN: Finite where a candidate is.
        present_PN: Where one is.
    """

    rewards_PN: Floats
    present_PN: Bools

    @classmethod
    def of(cls, rewards_PN: npt.ArrayLike, name: str = "rewards_PN") -> Pools:
        """Check an array of rewards; `name` is what errors call it.

        Raises:
            DataFormatError: Not [P, N], infinite, or a prompt without any candidate.
        """
        rewards = floats(name, rewards_PN)
        if rewards.ndim != 2 or rewards.shape[1] == 0:
            raise DataFormatError(
                f"{name} has the shape {rewards.shape}; it must be [prompts, candidates] with at "
                "least one candidate. For a single prompt pass an array of one row."
            )
        present = ~np.isnan(rewards)
        if np.isinf(rewards).any():
            row, column = np.argwhere(np.isinf(rewards))[0]
            raise DataFormatError(
                f"{name}[{row}, {column}] is {rewards[row, column]}; it must be finite, or nan "
                "where there is no candidate."
            )
        empty = np.flatnonzero(~present.any(axis=1))
        if len(empty):
            raise DataFormatError(
                f"{name}[{empty[0]}] has no candidate: all are nan, as in {len(empty)} of "
                f"{len(rewards)} prompts. Leave those prompts out, and count them."
            )
        return cls(np.where(present, rewards, -np.inf), present)

    @property
    def best_P(self) -> Ints:
        """The first candidate of the highest reward: plain Best-of-N."""
        return first_largest(self.rewards_PN)

    @property
    def sizes_P(self) -> Ints:
        """How many candidates each prompt has."""
        sizes: Ints = self.present_PN.sum(axis=1)
        return sizes

    def aligned(self, name: str, values: npt.ArrayLike) -> Floats:
        """[P, N] values that every candidate must have; 0 where there is no candidate.

        Raises:
            DataFormatError: The shape differs, or a candidate's value is not finite.
        """
        array = floats(name, values)
        self.check_shape(name, array, self.rewards_PN.shape)
        self._check_known(name, array, self.present_PN)
        return np.where(self.present_PN, array, 0.0)

    def similarity(self, similarity_PNN: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """[P, N, N] of any float type, finite between candidates; 0 beside where there is none.

        Raises:
            DataFormatError: The shape differs, or an entry between two candidates is not finite.
        """
        array = floating("similarity_PNN", similarity_PNN)
        num_candidates = self.rewards_PN.shape[1]
        self.check_shape("similarity_PNN", array, (*self.rewards_PN.shape, num_candidates))
        # most pools are whole, and so large an array is gone over as seldom as can be
        if self.present_PN.all() and np.isfinite(array).all():
            return array
        both = self.present_PN[:, :, None] & self.present_PN[:, None, :]
        self._check_known("similarity_PNN", array, both)
        return np.where(both, array, 0.0)

    def check_shape(
        self, name: str, array: npt.NDArray[np.floating], shape: tuple[int, ...]
    ) -> None:
        """Hold an array to the shape that goes with these rewards.

        Raises:
            DataFormatError: It has another.
        """
        if array.shape != shape:
            raise DataFormatError(
                f"{name} has the shape {array.shape}; beside rewards of {self.rewards_PN.shape} "
                f"it must be {shape}."
            )

    def _check_known(self, name: str, array: npt.NDArray[np.floating], needed: Bools) -> None:
        unknown = needed & ~np.isfinite(array)
        if unknown.any():
            place = np.argwhere(unknown)[0]
            raise DataFormatError(
                f"{name}{place.tolist()} is {array[tuple(place)]} though there is a candidate; it "
                "must be finite. Set the candidate's reward to nan to leave it out."
            )


def first_largest(values: Floats) -> Ints:
    """[..., N] -> [...] where the largest is, the first of equal ones."""
    first: Ints = values.argmax(axis=-1)
    return first


def check_beta(beta: float, name: str = "beta") -> float:
    """A strength of regularization, or another weight; `name` is what errors call it.

    Raises:
        ConfigError: Not a finite number >= 0.
    """
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real) or not 0 <= beta < math.inf:
        raise ConfigError(f"{name} must be a finite number >= 0, got {name}={beta!r}.")
    return float(beta)


def check_n(n: int, num_candidates: int) -> int:
    """A number of candidates.

    Raises:
        ConfigError: Not between 1 and `num_candidates`.
    """
    whole = isinstance(n, numbers.Integral) and not isinstance(n, bool)
    if not whole or not 1 <= n <= num_candidates:
        raise ConfigError(
            f"n must be a whole number from 1 to {num_candidates}, the size of the largest pool; "
            f"got n={n!r}."
        )
    return int(n)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error of a name that is not among the known ones."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigError(f"Unknown {kind} {name!r}. Available: {', '.join(known) or 'none'}.{hint}")


def floats(name: str, values: npt.ArrayLike) -> Floats:
    """The values as an array.

    Raises:
        DataFormatError: They are no numbers, or lists of different lengths.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataFormatError(
            f"{name} is no array of numbers ({error}). Pad shorter pools with nan."
        ) from error


def floating(name: str, values: npt.ArrayLike) -> npt.NDArray[np.floating]:
    """The values as an array of the float type that they have, for those that are large."""
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating):
        return values
    return floats(name, values)
