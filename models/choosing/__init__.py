"""The best network under a budget: ``visionpipe models choose``."""
