"""The command line that the scripts of this folder share: `key=value ...`, and `--help`."""

from __future__ import annotations

import sys


def read_options(*known: str) -> dict[str, str]:
    """Return what stands on the command line, or end with what may stand there."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip())
        raise SystemExit(0)
    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    for key, equals, _ in pairs:
        if not equals or key not in known:
            sys.exit(f"Cannot use {key + equals!r}; there are {', '.join(f'{k}=' for k in known)}.")
    return {key: value for key, _, value in pairs}
