"""What a network costs, layer by layer: ``visionpipe models profile``."""
