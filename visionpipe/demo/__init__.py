"""The demonstration: a folder of real pictures with known answers, and some that are broken on purpose."""

from visionpipe.demo.folder import DemoFolder, write_demo_folder

__all__ = ["DemoFolder", "write_demo_folder"]
