"""What ``visionpipe doctor`` looks at."""

from visionpipe.cli.checks.base import Check
from visionpipe.cli.checks.everything import run_checks

__all__ = ["Check", "run_checks"]
