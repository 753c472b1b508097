"""Check a dataset directory against its manifest. Nothing is repaired or written."""

from i21k.data.verify.check import SAMPLE, verify
from i21k.data.verify.report import Fault, SplitReport, VerifyReport

__all__ = ["SAMPLE", "Fault", "SplitReport", "VerifyReport", "verify"]
