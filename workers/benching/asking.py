"""What is asked: a task with its options, of pictures that lie ready."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from visionpipe.aclient import AsyncClient
from visionpipe.cli.values import task_options
from visionpipe.errors import UnsupportedTaskError, VisionPipeError, error_class
from visionpipe.runs import run_folder
from visionpipe.runs.pictures import Pictures as OptionPictures
from visionpipe.runs.report import RunReport
from visionpipe.schemas.requests import Options
from visionpipe.schemas.requests.feature_visualization import METHODS_WITH_IMAGES, FeatureVisualizationOptions
from visionpipe.settings import Settings
from workers.benching.load import Ask, Asker
from workers.benching.pictures import encoded, fill_folder, pictures_of
from workers.benching.report import Pictures

if TYPE_CHECKING:
    from models.catalog import Entry

T = TypeVar("T")
TIMEOUT_S = 600.0
"""No request is waited for longer than this."""
FOLDER_IMAGES = (32, 20_000)
"""Fewest and most images of a folder run."""


@dataclass(frozen=True)
class Asked:
    """One kind of request.

    Attributes:
        task: What is asked.
        options: The task's options.
        named: Pictures that the options name.
        pictures: Those that are sent; none for a request without pictures.
        about: What a report says of them.
        folder: Where they lie, and folders of more of them.
    """

    task: str
    options: Options
    named: OptionPictures
    pictures: Sequence[Path] | Sequence[bytes]
    about: Pictures | None
    folder: Path

    @property
    def plain_options(self) -> dict[str, Any]:
        """The options that were given, as JSON data."""
        plain: dict[str, Any] = self.options.model_dump(mode="json", exclude_unset=True)
        return plain

    @property
    def first_folder(self) -> Path:
        """The folder with each picture once."""
        return self.folder / "each"

    def folder_of(self, number: int) -> Path:
        """Give a folder of so many pictures."""
        made = self.folder / f"of-{number}"
        if not made.exists():
            fill_folder(made, self.pictures, number)
        return made

    def drive(self, settings: Settings, model: str, act: Callable[[Ask], Awaitable[T]]) -> T:
        """Do something with a connected client's requests."""

        async def go() -> T:
            async with AsyncClient(settings.redis_url, settings=settings) as client, self.named.kept(client):
                return await act(Asker(client, self.task, model, self.options, encoded(self.pictures), TIMEOUT_S))

        return asyncio.run(go())

    def run_folder(self, settings: Settings, model: str, number: int) -> RunReport:
        """Run a folder of so many pictures, as ``visionpipe batch`` does."""

        async def go() -> RunReport:
            async with AsyncClient(settings.redis_url, settings=settings) as client, self.named.kept(client):
                return await run_folder(
                    client, self.folder_of(number), self.folder / f"out-{next(_SERIAL)}",
                    task=self.task, model=model, options=self.plain_options, settings=settings,
                )  # fmt: skip

        return asyncio.run(go())


_SERIAL = itertools.count()


def find(target: str, settings: Settings) -> Entry:
    """Find a model's card.

    Raises:
        VisionPipeError: There is none.
    """
    from models.catalog import Catalog
    from models.errors import ModelError

    try:
        return Catalog(settings.models).find(target)
    except ModelError as error:
        kind: type[VisionPipeError] = error_class(error.code)
        raise kind(error.message, **error.details) from error


@contextmanager
def asked(
    entry: Entry, settings: Settings, *, task: str | None, words: Sequence[str], styles: Sequence[str],
    images: Path | None,
) -> Iterator[Asked]:  # fmt: skip
    """Have what is asked, with its pictures written, while the context lasts.

    Args:
        entry: The model.
        settings: Limits on pictures.
        task: What to ask; unset means the first task of the card.
        words: Its options, ``key=value``.
        styles: Pictures whose style is wanted.
        images: A folder of pictures; unset means generated ones.

    Raises:
        UnsupportedTaskError: The model has no such task.
        InvalidRequestError: The options do not fit the task.
    """
    able = entry.card.served_tasks
    if task is not None and task not in able:
        raise UnsupportedTaskError(f"Expected a task that {entry.name!r} can do ({', '.join(able)}), got {task!r}.")
    named = OptionPictures(settings.max_image_bytes)
    task = task or able[0]
    options = task_options(task, words, styles, named.refer)
    with tempfile.TemporaryDirectory(prefix="vp-bench-pictures-") as name:
        folder = Path(name)
        if not _takes_pictures(options):
            yield Asked(task, options, named, [], None, folder)
            return
        sent = pictures_of(entry.card, images)
        fill_folder(folder / "each", sent, len(sent))
        sizes = [len(one) for one in encoded(sent)]
        source = "generated" if images is None else str(images)
        about = Pictures(source=source, different=len(sent), mean_bytes=round(sum(sizes) / len(sizes)))
        yield Asked(task, options, named, sent, about, folder)


def _takes_pictures(options: Options) -> bool:
    return not isinstance(options, FeatureVisualizationOptions) or options.method in METHODS_WITH_IMAGES


def images_for(rate: float, seconds: float) -> int:
    """Give how many images a folder run should have to last about so long."""
    least, most = FOLDER_IMAGES
    return max(least, min(most, round(rate * seconds)))


def typical(runs: Sequence[RunReport]) -> RunReport:
    """Give the run whose rate is the median."""
    return sorted(runs, key=lambda run: run.images_per_s)[len(runs) // 2]
