"""How far each attribution method can be trusted on a model: ``visionpipe models audit``."""
