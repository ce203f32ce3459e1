"""The doctor: what does not fit in a study, why it matters, what mends it, and what everything would cost."""

from influence_core.diagnosis.examination import doctor
from influence_core.diagnosis.finding import EXIT_CODES, Finding, Report, Severity

__all__ = ["EXIT_CODES", "Finding", "Report", "Severity", "doctor"]
