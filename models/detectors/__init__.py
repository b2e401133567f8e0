"""Detection networks of two families behind one protocol: torchvision's detectors and ultralytics' YOLO."""

from models.detectors.base import Detector, Found, Prepared, Wanted
from models.detectors.choosing import make_detector

__all__ = ["Detector", "Found", "Prepared", "Wanted", "make_detector"]
