"""Options of tasks as words on a command line: ``-O key=value``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.requests import Options
from visionpipe.tasks import build_options, task_spec

PLACEHOLDER = {"kind": "url", "url": "https://placeholder.invalid/"}
"""Stands for an image while nothing but the options' form is checked."""


def parse_options(words: Sequence[str], image: Callable[[str], Any] = lambda _: PLACEHOLDER) -> dict[str, Any]:
    """Read ``key=value`` words.

    A value is JSON where it can be read as JSON, else text. ``a.b=1`` sets field ``b`` of field ``a``; ``@picture.png``
    stands for that image.

    Args:
        words: The words, in order.
        image: Makes a reference of an image's path or URL.

    Raises:
        InvalidRequestError: A word is not of this form, or a key is given twice.
    """
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        *parents, last = key.split(".")
        if not equals or not all([*parents, last]):
            raise InvalidRequestError(f"Expected -O KEY=VALUE, such as -O score_threshold=0.5, got {word!r}.")
        place = options
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InvalidRequestError(f"-O {key}: {parent!r} has a value already.")
        if last in place:
            raise InvalidRequestError(f"-O {key} is given twice; write a list as -O {key}='[1, 2]'.")
        place[last] = image(text[1:]) if text.startswith("@") else _value(text)
    return options


def task_options(task: str, words: Sequence[str], styles: Sequence[str], image: Callable[[str], Any]) -> Options:
    """Build a task's options from ``key=value`` words and the pictures whose style is wanted.

    Raises:
        UnknownTaskError: There is no such task.
        InvalidRequestError: The options do not fit the task.
    """
    plain = parse_options(words, image)
    if styles:
        plain["styles"] = [{"image": image(style)} for style in styles]
    elif "styles" in task_spec(task).options.model_fields and "styles" not in plain:
        raise InvalidRequestError(f"{task} needs at least one --style PICTURE.")
    return build_options(task, plain)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
