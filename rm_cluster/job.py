"""What every job shares: the command line, logging and the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from os.path import isfile
from typing import Any, TypeVar

from pydantic import BaseModel

from rm_cluster.errors import ConfigError, DataFormatError, RMClusterError
from rm_cluster.parsing import check_overrides, parse_config

ConfigT = TypeVar("ConfigT", bound=BaseModel)

FAILURE = 1
USER_ERROR = 2


def read_command_line(kind: type[ConfigT], default: Callable[[], Mapping[str, Any]]) -> ConfigT:
    """Read `[CONFIG.yaml] [key.sub=value ...]`; without a CONFIG, `default()` is what runs.

    Raises:
        ConfigError: Whatever is wrong with it.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        main = sys.modules["__main__"]
        print((main.__doc__ or "").strip())
        raise SystemExit(0)
    paths = [argument for argument in arguments if "=" not in argument or isfile(argument)]
    overrides = [argument for argument in arguments if argument not in paths]
    if len(paths) > 1:
        raise ConfigError(f"One CONFIG at most, got {', '.join(paths)}; settings are key=value.")
    check_overrides(kind, overrides)  # the default may take minutes to make
    return parse_config(kind, paths[0] if paths else default(), overrides)


def run_job(main: Callable[[], None]) -> None:
    """Run a job and exit: 0 done, 2 the user's mistake in a line or two, 1 a failure."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("rm_cluster").setLevel(logging.INFO)
    # Python has the folder of the script there, and what a user names, `package.module:function`,
    # lies beside the configuration; last, so that it hides no package
    sys.path.append(os.getcwd())
    try:
        main()
    except (ConfigError, DataFormatError) as error:
        sys.exit(_say(error, USER_ERROR))
    except RMClusterError as error:
        sys.exit(_say(error, FAILURE))
    except KeyboardInterrupt:
        sys.exit(_say("Stopped. What was scored is stored; run again to go on.", FAILURE))


def _say(message: object, status: int) -> int:
    print(message, file=sys.stderr)
    return status
