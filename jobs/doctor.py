"""Check that a model's rewards do not depend on how they are computed.

    python jobs/doctor.py [CONFIG.yaml] [key.sub=value ...]

Runs the same rows through plain transformers, our engine and, where it is installed, vLLM. Without
a CONFIG it examines tiny models with random weights. Exit status 1: our engine does not agree with
one text at a time.
"""

import rm_cluster as rmc
from rm_cluster.config import DoctorConfig
from rm_cluster.errors import ScoringError
from rm_cluster.job import read_command_line, run_job
from rm_cluster.parity.tiny import doctor_config
from rm_cluster.report.parity import summary


def main() -> None:
    result = rmc.doctor(read_command_line(DoctorConfig, default=doctor_config))
    print(summary(result))
    if not result.healthy:
        raise ScoringError("Our engine does not agree with one text at a time.")


if __name__ == "__main__":
    run_job(main)
