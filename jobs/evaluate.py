"""Evaluate reward models on preference benchmarks.

    python jobs/evaluate.py [CONFIG.yaml] [key.sub=value ...]

Without a CONFIG it runs the sandbox, a small world made on the spot: PPE's human and correctness
sides, nine reward models and `length`, and an outcome to correlate their metrics with.
"""

import rm_cluster as rmc
from rm_cluster.job import read_command_line, run_job
from rm_cluster.report.terminal import summary
from rm_cluster.sandbox import evaluate_config


def main() -> None:
    config = read_command_line(rmc.EvaluateConfig, default=evaluate_config)
    print(summary(rmc.evaluate(config)))


if __name__ == "__main__":
    run_job(main)
