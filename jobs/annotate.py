"""Make preferences to train on from candidates and a reward model.

    python jobs/annotate.py [CONFIG.yaml] [key.sub=value ...]

Without a CONFIG it runs on the sandbox, a small world made on the spot: sixteen samples of a policy
for each of its prompts, and a reward model trained on simulated votes.
"""

import rm_cluster as rmc
from rm_cluster.job import read_command_line, run_job
from rm_cluster.report.annotation import terminal_summary
from rm_cluster.sandbox import annotate_config


def main() -> None:
    config = read_command_line(rmc.AnnotateConfig, default=annotate_config)
    print(terminal_summary(rmc.annotate(config)))


if __name__ == "__main__":
    run_job(main)
