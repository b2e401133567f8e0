"""The catalog: finds a card by name in the user's folder, among the bundled models, and in torchvision's registry."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from models import zoo
from models.cards import CARD_FILE, NAME_PATTERN, Card, read_card
from models.errors import InvalidCard, UnknownModel

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
"""Where the models that ship with us lie."""

Source = Literal["user", "bundled", "torchvision"]
"""Where a card was found; an earlier one hides a later one of the same name."""


@dataclass(frozen=True)
class Entry:
    """One model of the catalog."""

    card: Card
    """Its description."""
    folder: Path | None
    """Its folder; ``None`` for torchvision's."""
    source: Source
    """Where the card was found."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def target(self) -> str:
        """The pinned name, ``name@digest``."""
        return f"{self.name}@{self.digest}"

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything that affects answers.

        Covers the card, the weights (their file where there is one, else the hash the card promises) and
        the Python files of the model's folder.
        """
        return self.card.fingerprint(weights_sha256=self._weights_sha256(), code_sha256=self._code_sha256())

    def _weights_sha256(self) -> str | None:
        weights = self.card.weights
        if weights is None:
            return None
        if weights.file is None or self.folder is None:
            return weights.sha256
        try:
            return file_sha256(self.folder / weights.file)
        except OSError:
            return weights.sha256

    def _code_sha256(self) -> str | None:
        if self.folder is None:
            return None
        sources = sorted(self.folder.rglob("*.py"))
        if not sources:
            return None
        digest = hashlib.sha256()
        for path in sources:
            digest.update(path.relative_to(self.folder).as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(file_sha256(path)))
        return digest.hexdigest()


class Catalog:
    """Every model that a worker here could host.

    Args:
        user_folder: Folder with one sub-folder per user model; ``None`` for none.
    """

    def __init__(self, user_folder: Path | None = None) -> None:
        self._folders: list[tuple[Source, Path]] = [("bundled", BUNDLED_FOLDER)]
        if user_folder is not None:
            self._folders.insert(0, ("user", user_folder.expanduser()))

    def find(self, target: str) -> Entry:
        """Find a model by ``name`` or ``name@digest``.

        Raises:
            UnknownModel: No card has the name (the message lists close ones), or the digest is another.
            InvalidCard: There is a card of that name, but it cannot be used.
        """
        name, pinned, digest = target.partition("@")
        entry = self._find_name(name)
        if entry is None:
            raise self._unknown(name)
        if pinned and digest != entry.digest:
            raise UnknownModel(
                f"Model {name!r} is here as {entry.target}, not as {target}: its card, code or weights have changed.",
                model=target,
                here=entry.target,
            )
        return entry

    def entries(self, source: Source | None = None) -> list[Entry]:
        """List the usable models, sorted by name; ``source`` leaves out the other places."""
        found: dict[str, Entry] = {}
        for place, path in self._card_files():
            if source in (None, place) and path.parent.name not in found:
                try:
                    found[path.parent.name] = Entry(read_card(path), path.parent, place)
                except InvalidCard:
                    continue
        if source in (None, "torchvision"):
            for card in zoo.cards():
                found.setdefault(card.name, Entry(card, None, "torchvision"))
        return [found[name] for name in sorted(found)]

    def broken(self) -> list[InvalidCard]:
        """List what is wrong with the cards that ``entries`` leaves out."""
        faults = []
        for _, path in self._card_files():
            try:
                read_card(path)
            except InvalidCard as fault:
                faults.append(fault)
        return faults

    def _find_name(self, name: str) -> Entry | None:
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        for place, root in self._folders:
            path = root / name / CARD_FILE
            if path.is_file():
                return Entry(read_card(path), path.parent, place)
        card = zoo.card(name)
        return None if card is None else Entry(card, None, "torchvision")

    def _card_files(self) -> Iterator[tuple[Source, Path]]:
        for place, root in self._folders:
            for path in sorted(root.glob(f"*/{CARD_FILE}")):
                yield place, path

    def _unknown(self, name: str) -> UnknownModel:
        known = sorted({path.parent.name for _, path in self._card_files()} | set(zoo.names()))
        close = difflib.get_close_matches(name, known, n=5) or [other for other in known if name in other][:5]
        hint = f"Close names: {', '.join(close)}." if close else "`visionpipe models list` names them all."
        places = ", ".join(str(root) for _, root in self._folders)
        return UnknownModel(f"No model is called {name!r} in {places} or torchvision. {hint}", model=name, close=close)


def file_sha256(path: Path) -> str:
    """Hash a file, as 64 hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
