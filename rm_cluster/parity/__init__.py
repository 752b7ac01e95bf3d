"""The parity check: does what a reward model says depend on how it is computed?

The same rows go through plain transformers one text at a time, the reference, and then through
everything that should give the same numbers: our engine with one text and with many, packed and
padded, whatever the pad token, and vLLM where it is installed.
"""

from rm_cluster.parity.examination import doctor
from rm_cluster.parity.result import DoctorResult

__all__ = ["DoctorResult", "doctor"]
