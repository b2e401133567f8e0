"""All checks, in the order they are shown."""

from __future__ import annotations

from collections.abc import Iterator

from visionpipe.cli.checks import compute, folders, installed, redis
from visionpipe.cli.checks.base import Check
from visionpipe.errors import SettingsError
from visionpipe.settings import load_settings


def run_checks(redis_url: str | None) -> Iterator[Check]:
    """Look at everything, one after the other; the slow ones last."""
    yield installed.python()
    yield installed.packages()
    yield installed.names()
    try:
        settings = load_settings(redis_url=redis_url)
    except SettingsError as error:
        yield Check("settings", "fail", error.message, "Mend or unset these variables.")
    else:
        yield folders.models(settings)
        yield folders.data(settings)
        yield redis.embedded(settings)
        yield redis.configured(settings)
    yield folders.open_files()
    yield compute.compiler()
    yield from compute.torch()
