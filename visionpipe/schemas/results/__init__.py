"""The results of every task."""

from visionpipe.schemas.results.adversarial import AdversarialResult, Attack, ChangeNorms
from visionpipe.schemas.results.base import ClassScore, Result, StopReason
from visionpipe.schemas.results.classification import ClassificationResult
from visionpipe.schemas.results.detection import Detection, DetectionResult
from visionpipe.schemas.results.embedding import EmbeddingResult
from visionpipe.schemas.results.explanation import (
    Attribution,
    Completeness,
    Curve,
    Curves,
    ExplanationResult,
    SanityDepth,
    SanityReport,
    SegmentWeight,
)
from visionpipe.schemas.results.feature_visualization import FeatureVisualizationResult, UnitView
from visionpipe.schemas.results.segmentation import SegmentationResult
from visionpipe.schemas.results.segmented import SegmentedClass, SegmentedInstance
from visionpipe.schemas.results.spatial_transformer import SpatialTransformerResult
from visionpipe.schemas.results.style_transfer import StyleLoss, StyleTransferResult

__all__ = [
    "AdversarialResult",
    "Attack",
    "Attribution",
    "ChangeNorms",
    "ClassScore",
    "ClassificationResult",
    "Completeness",
    "Curve",
    "Curves",
    "Detection",
    "DetectionResult",
    "EmbeddingResult",
    "ExplanationResult",
    "FeatureVisualizationResult",
    "Result",
    "SanityDepth",
    "SanityReport",
    "SegmentWeight",
    "SegmentationResult",
    "SegmentedClass",
    "SegmentedInstance",
    "SpatialTransformerResult",
    "StopReason",
    "StyleLoss",
    "StyleTransferResult",
    "UnitView",
]
