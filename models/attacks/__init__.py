"""Adversarial pictures that survive rounding to 8 bits: FGSM and PGD in L-infinity and L2."""

from models.attacks.balls import NORMS, Ball, L2Ball, LinfBall, Norm
from models.attacks.goal import Goal
from models.attacks.search import Candidate, LevelClassifier, Method, Plan, Search
from models.attacks.subject import Change, Subject

__all__ = [
    "NORMS",
    "Ball",
    "Candidate",
    "Change",
    "Goal",
    "L2Ball",
    "LevelClassifier",
    "LinfBall",
    "Method",
    "Norm",
    "Plan",
    "Search",
    "Subject",
]
