"""Correlate metrics of reward models with the outcome of the policies that they train.

    python jobs/correlate.py [CONFIG.yaml] [key.sub=value ...]

Without a CONFIG it runs on the published tables of two papers and says how our numbers compare with
the printed ones.
"""

from rm_cluster.config import CorrelateConfig
from rm_cluster.correlation import correlate_files, published_config
from rm_cluster.job import read_command_line, run_job
from rm_cluster.report.correlation_terminal import summary


def main() -> None:
    config = read_command_line(CorrelateConfig, default=published_config)
    print(summary(correlate_files(config)))


if __name__ == "__main__":
    run_job(main)
