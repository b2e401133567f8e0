"""How each bundled model was trained: ``python -m models.recipes NAME`` reproduces it."""
