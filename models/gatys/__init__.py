"""Style transfer by optimization: Gatys, Ecker, Bethge 2015, "A Neural Algorithm of Artistic Style"."""

from models.gatys.encoder import DEFAULT_LAYERS, Encoder
from models.gatys.losses import Terms, Weights
from models.gatys.objective import Objective
from models.gatys.painting import Evaluated, Painting, Plan, Style

__all__ = ["DEFAULT_LAYERS", "Encoder", "Evaluated", "Objective", "Painting", "Plan", "Style", "Terms", "Weights"]
