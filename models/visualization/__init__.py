"""What units inside a network respond to: deconvnet, activations, filters, activation maximisation."""

from models.visualization.deconvnet import Deconvnet, check_deconvnet
from models.visualization.filters import filters, first_filters
from models.visualization.layers import Layer, Maps, Survey
from models.visualization.maximization import Ascent, Plan, Regularizers
from models.visualization.peaks import Peak, peaks

__all__ = [
    "Ascent",
    "Deconvnet",
    "Layer",
    "Maps",
    "Peak",
    "Plan",
    "Regularizers",
    "Survey",
    "check_deconvnet",
    "filters",
    "first_filters",
    "peaks",
]
