"""What is wrong with a folder beyond what does not parse: `istioctl analyze`'s checks, and some that it has not.

Checks look at the objects as they were written, not at what :mod:`~meshlib.controlplane.documents`
understood of them: an object that istioctl looks at is looked at, whether it applies here or not.
Codes ``IST…`` are istioctl's, with its levels and words; codes ``MSH…`` are ours.
"""

from __future__ import annotations

from meshlib.controlplane.analysis.analyze import CHECKS, Analysis, analyze
from meshlib.controlplane.analysis.finding import Finding, Level

__all__ = ["CHECKS", "Analysis", "Finding", "Level", "analyze"]
