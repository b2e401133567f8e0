"""Transfer learning: from a classification network and a folder of pictures per class to a model of one's own."""
