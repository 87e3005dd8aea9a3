"""Physics checks: each a function that returns a measured figure, its bound, and where the bound comes from."""

from atomjet.validate.check import Check
from atomjet.validate.suite import Effort, Report, default_structures, run_checks, validate

__all__ = ["Check", "Effort", "Report", "default_structures", "run_checks", "validate"]
