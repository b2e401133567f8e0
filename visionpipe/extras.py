"""Packages that only some of the work needs: their absence, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from visionpipe.errors import MissingExtraError

IMAGES = frozenset({"numpy", "PIL", "cv2", "supervision", "pycocotools"})
"""What the extra ``images`` brings."""


@contextmanager
def images_extra() -> Iterator[None]:
    """Say of a package that is missing how to install it.

    Raises:
        MissingExtraError: A package of the extra ``images`` was imported inside and is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in IMAGES:
            raise
        raise MissingExtraError(
            f"This needs {module}, which is not installed here. Run: pip install 'visionpipe[images]'",
            module=module,
            extra="images",
        ) from error
