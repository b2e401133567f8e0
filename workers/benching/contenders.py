"""What is measured: a model, and the settings of its worker, as one word of a command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visionpipe.child import WorkerSpec
from visionpipe.errors import SettingsError
from visionpipe.settings import Settings

_OF_WORKER: dict[str, Any] = {"device": str, "precision": str, "max_batch": int}
"""Options of ``visionpipe worker``."""
_OF_STACK: dict[str, Any] = {"workers": int}
"""How many of them there are."""
_OF_SETTINGS = ("decode_threads", "full_decode", "compile")
"""Settings that change how fast a worker is."""
KEYS = (*_OF_WORKER, *_OF_STACK, *_OF_SETTINGS)


@dataclass(frozen=True)
class Contender:
    """One model, and how its worker is run."""

    label: str
    """As it was typed."""
    model: str
    """``name`` or ``name@digest``."""
    how: dict[str, Any] = field(default_factory=dict)
    """Options of its worker and settings, where they were given."""

    @property
    def workers(self) -> int:
        """How many workers serve it."""
        return int(self.how.get("workers", 1))

    def settings(self, base: Settings) -> Settings:
        """Give the settings of its worker."""
        changes = {name: self.how[name] for name in _OF_SETTINGS if name in self.how}
        if "compile" not in changes and base.compile == "auto":
            # A worker that serves for a while is compiled; one that is measured should not become so meanwhile.
            changes["compile"] = "now"
        return base.model_copy(update=changes)

    def spec(self) -> WorkerSpec:
        """Give what a supervisor needs to know of each worker."""
        return WorkerSpec(self.model, **{name: self.how[name] for name in _OF_WORKER if name in self.how})


def parse_contender(word: str, defaults: dict[str, Any] | None = None) -> Contender:
    """Read ``NAME[@DIGEST][:KEY=VALUE,...]``, such as ``resnet18:precision=fp32,max_batch=8``.

    Args:
        word: What was typed.
        defaults: Values of keys that the word does not give.

    Raises:
        SettingsError: There is no such key, or it does not take that value.
    """
    model, _, rest = word.partition(":")
    given: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, text = pair.partition("=")
        if key not in KEYS or not equals or key in given:
            raise SettingsError(
                f"Expected NAME:KEY=VALUE,... with keys out of {', '.join(KEYS)}, each at most once, got {word!r}."
            )
        given[key] = text
    if not model:
        raise SettingsError(f"Expected the name of a model before the colon, got {word!r}.")
    how = {key: value for key, value in (defaults or {}).items() if value is not None}
    return Contender(word, model, {**how, **{key: _value(key, text) for key, text in given.items()}})


def _value(key: str, text: str) -> Any:
    kind: Any = {**_OF_WORKER, **_OF_STACK}.get(key) or Settings.model_fields[key].annotation
    try:
        value = TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise SettingsError(f"{key}={text}: {error.errors()[0]['msg']}.") from error
    least = int(key in ("max_batch", "workers"))
    if isinstance(value, int) and not isinstance(value, bool) and value < least:
        raise SettingsError(f"{key}={text}: expected at least {least}.")
    return value
