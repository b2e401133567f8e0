"""``visionpipe run``: one thing asked of a few images, answers on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from visionpipe.cli.answers import Answer, show, to_data
from visionpipe.cli.output import err, write_json
from visionpipe.cli.saving import drawable, save_all
from visionpipe.cli.values import PLACEHOLDER, task_options
from visionpipe.errors import ImageError, ImageNotFoundError, InvalidRequestError, ResultTimeoutError
from visionpipe.schemas.images import UrlImage
from visionpipe.schemas.jobs import Item
from visionpipe.settings import Settings, load_settings
from visionpipe.tasks import result_class
from visionpipe.wire import error_info

if TYPE_CHECKING:
    from visionpipe.client import Client
    from visionpipe.jobs import Job
    from visionpipe.schemas.results import Result

URLS = ("http://", "https://")
EXIT_SOME_FAILED = 3
"""Every image has an outcome, and some of the outcomes are errors."""
GLANCE_S = 0.5
"""How often progress is looked at."""

Tell = Callable[[str], None]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    task: Annotated[str, typer.Argument(help="What to ask, such as classification.")],
    model: Annotated[str, typer.Option("--model", "-m", help="NAME or NAME@DIGEST.")],
    images: Annotated[list[str] | None, typer.Argument(help="Files or http(s) URLs.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="How many classes to name.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-O", "--option", metavar="KEY=VALUE", help="Any other option of the task; @FILE is an image."),
    ] = None,
    style: Annotated[list[str] | None, typer.Option(help="Picture whose style is wanted; repeat for several.")] = None,
    save: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for masks, pictures, maps and drawings.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait for all answers.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Instead of VISIONPIPE_REDIS_URL.")] = None,
    device: Annotated[str, typer.Option(help="Device of a worker that has to be started.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON document.")] = False,
) -> None:
    """Ask one thing of a few images and print the answers.

    With no Redis configured, the embedded one and a worker for the model are started if none run, and stopped
    afterwards. The exit status is 3 when some of the images have an error instead of an answer.
    """
    words = list(option or []) + ([] if top_k is None else [f"top_k={top_k}"])
    sources = [_existing(image) for image in images or []]
    if save is not None:
        _make_folder(save)
    settings = load_settings(redis_url=redis_url)
    task_options(task, words, style or [], lambda _: PLACEHOLDER)
    console = err()
    with ExitStack() as stack:
        status = stack.enter_context(console.status("Starting ..."))
        tell: Tell = lambda text: status.update(escape(text))  # noqa: E731
        client = stack.enter_context(_client(settings, model, device, tell))
        options = task_options(task, words, style or [], lambda image: _stored(client, image))
        if save:
            options = drawable(options, result_class(task))
        answers = list(_ask(client, task, sources, model, options, timeout, tell))
        saved, notes = save_all(client, answers, sources, save) if save else ([], [])
    for note in notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    if as_json:
        write_json(to_data(task, answers, saved))
    else:
        show(answers, saved)
    if any(not answer.item.ok for answer in answers):
        raise typer.Exit(EXIT_SOME_FAILED)


def _stored(client: Client, image: str) -> dict[str, Any]:
    ref = UrlImage(url=image) if image.startswith(URLS) else client.upload(image)
    return ref.model_dump(mode="json")


def _existing(image: str) -> str:
    if not image.startswith(URLS):
        if Path(image).is_dir():
            raise InvalidRequestError(f"{image!r} is a folder: use `visionpipe batch TASK {image}`.")
        if not Path(image).exists():
            raise ImageNotFoundError(f"There is no file {image!r}.")
    return image


def _make_folder(folder: Path) -> None:
    # Before anything is asked, whose answers could not be kept.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(f"--save {folder}: {error.strerror}. Choose another folder.") from error


@contextmanager
def _client(settings: Settings, model: str, device: str, tell: Tell) -> Iterator[Client]:
    from visionpipe.client import Client

    if settings.redis_url is not None:
        # Whoever names a Redis means the workers behind it.
        with Client(settings=settings) as client:
            yield client
    else:
        from visionpipe.stack import ensure_stack

        with (
            ensure_stack([model], settings=settings, device=device, on_progress=tell) as stack,
            Client(stack.redis_url, settings=stack.settings) as client,
        ):
            tell("Waiting ...")
            yield client
            tell("Stopping ...")


def _ask(
    client: Client, task: str, sources: list[str], model: str, options: Any, timeout: float | None, tell: Tell
) -> Iterator[Answer]:
    """Submit one job per image, so that an unreadable one harms no other, and wait for each in turn."""
    from time import monotonic

    ends_at = None if timeout is None else monotonic() + timeout
    jobs: list[Job[Result] | ImageError] = []
    try:
        for images in [[source] for source in sources] or [[]]:
            try:
                jobs.append(client.submit(task, images, model=model, options=options))
            except ImageError as error:
                jobs.append(error)
        for index, job in enumerate(jobs):
            name = sources[index] if sources else None
            if isinstance(job, ImageError):
                yield Answer(Item(index=index, name=name, error=error_info(job)))
            else:
                yield _answer(job, index, name, len(jobs), ends_at, tell)
    except BaseException:
        for job in jobs:
            if not isinstance(job, ImageError):
                job.cancel()
        raise


def _answer(job: Job[Result], index: int, name: str | None, total: int, ends_at: float | None, tell: Tell) -> Answer:
    from time import monotonic

    from visionpipe.envelopes import outcomes

    while True:
        left = GLANCE_S if ends_at is None else ends_at - monotonic()
        try:
            envelope = job.wait(max(0.0, min(GLANCE_S, left)))
        except ResultTimeoutError as error:
            if left <= 0:
                job.cancel()
                late = ResultTimeoutError("No answer within the time given; the job was cancelled.", job=job.id)
                if total == 1:
                    raise late from error
                # Others may have an answer, which this one must not take away.
                return Answer(Item(index=index, name=name, error=error_info(late)))
            record = job.record()
            told = record.progress
            steps = f", {told.done}/{told.total} {told.note}" if told and told.total > 1 else ""
            tell(f"{f'{index + 1} of {total}: ' if total > 1 else ''}{record.state}{steps}")
        else:
            return Answer(outcomes(envelope)[0].model_copy(update={"index": index, "name": name}), envelope)
