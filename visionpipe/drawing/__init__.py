"""Drawing of results; needs the extra ``images``."""

from visionpipe.drawing.banner import Line, with_banner
from visionpipe.drawing.canvas import Canvas, open_canvas
from visionpipe.drawing.colors import class_color
from visionpipe.drawing.sheets import sheet

__all__ = ["Canvas", "Line", "class_color", "open_canvas", "sheet", "with_banner"]
