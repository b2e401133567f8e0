"""The requests of every task."""

from visionpipe.schemas.requests.adversarial import AdversarialOptions, AdversarialRequest
from visionpipe.schemas.requests.base import MAX_IMAGES, Options, Request, SteppedOptions
from visionpipe.schemas.requests.classification import ClassificationOptions, ClassificationRequest
from visionpipe.schemas.requests.detection import DetectionOptions, DetectionRequest, Slicing
from visionpipe.schemas.requests.embedding import EmbeddingOptions, EmbeddingRequest
from visionpipe.schemas.requests.explanation import ExplanationOptions, ExplanationRequest, SanityCheck, Superpixels
from visionpipe.schemas.requests.feature_visualization import (
    FeatureVisualizationOptions,
    FeatureVisualizationRequest,
    Regularization,
)
from visionpipe.schemas.requests.segmentation import SegmentationOptions, SegmentationRequest
from visionpipe.schemas.requests.spatial_transformer import SpatialTransformerOptions, SpatialTransformerRequest
from visionpipe.schemas.requests.style_transfer import Style, StyleTransferOptions, StyleTransferRequest

__all__ = [
    "MAX_IMAGES",
    "AdversarialOptions",
    "AdversarialRequest",
    "ClassificationOptions",
    "ClassificationRequest",
    "DetectionOptions",
    "DetectionRequest",
    "EmbeddingOptions",
    "EmbeddingRequest",
    "ExplanationOptions",
    "ExplanationRequest",
    "FeatureVisualizationOptions",
    "FeatureVisualizationRequest",
    "Options",
    "Regularization",
    "Request",
    "SanityCheck",
    "SegmentationOptions",
    "SegmentationRequest",
    "Slicing",
    "SpatialTransformerOptions",
    "SpatialTransformerRequest",
    "SteppedOptions",
    "Style",
    "StyleTransferOptions",
    "StyleTransferRequest",
    "Superpixels",
]
