"""Which images of a folder excite units of a network most, and what in them does: the nine-patch sheets."""

from visionpipe.features.run import FeaturesReport, run_features

__all__ = ["FeaturesReport", "run_features"]
