"""What can go wrong, named by whose turn it is to act.

The messages say what was wrong with its value, what is allowed and how to mend it. The classes take
a message only, because they cross process boundaries pickled.
"""

from __future__ import annotations


class RMClusterError(Exception):
    """Base of every error that rm-cluster raises on purpose."""


class ConfigError(RMClusterError, ValueError):
    """The configuration, or a model that it names, cannot be used; the user can mend it."""


class DataFormatError(RMClusterError, ValueError):
    """A file or a row is not what it should be; the user can mend it."""


class ScoringError(RMClusterError, RuntimeError):
    """Measuring failed, though what was asked for was in order; run again to go on from there."""
