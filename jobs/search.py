"""Search reward models, rules, N and beta for Best-of-N on a pool of candidates.

    python jobs/search.py [CONFIG.yaml] [key.sub=value ...]

Without a CONFIG it runs in the sandbox: it samples 32 replies of a language model to each of 240
tasks, has them scored by six reward models, good and poor, and searches.
"""

from typing import Any

import rm_cluster as rmc
from rm_cluster.job import read_command_line, run_job
from rm_cluster.report.search import terminal_summary
from rm_cluster.sandbox import generate_config, search_config


def sandbox() -> dict[str, Any]:
    candidates = rmc.generate(generate_config())
    return search_config(f"{candidates.config.output_dir}/candidates.parquet")


def main() -> None:
    config = read_command_line(rmc.SearchConfig, default=sandbox)
    print(terminal_summary(rmc.search(config)))


if __name__ == "__main__":
    run_job(main)
