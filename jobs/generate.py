"""Sample candidates from a policy, several for each prompt, with their log-probabilities.

    python jobs/generate.py [CONFIG.yaml] [key.sub=value ...]

Without a CONFIG it samples 32 replies of a language model of the sandbox to each of 240 tasks, and
verifies them.
"""

import rm_cluster as rmc
from rm_cluster.job import read_command_line, run_job
from rm_cluster.report.generation import terminal_summary
from rm_cluster.sandbox import generate_config


def main() -> None:
    config = read_command_line(rmc.GenerateConfig, default=generate_config)
    print(terminal_summary(rmc.generate(config)))


if __name__ == "__main__":
    run_job(main)
