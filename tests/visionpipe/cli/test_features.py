"""The features command: its options, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from visionpipe.cli.features import parse_channels, register
from visionpipe.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("words", "channels"), [("3", [3]), ("0,1,2", [0, 1, 2]), ("4-7, 1,5", [4, 5, 6, 7, 1]), ("0-0", [0])]
)
def test_channels_are_numbers_and_ranges(words: str, channels: list[int]) -> None:
    assert parse_channels(words) == channels


@pytest.mark.parametrize("words", ["", "a", "1,,2", "-1", "3-", "1;2"])
def test_other_words_are_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match="0-15"):
        parse_channels(words)
    monkeypatch.setattr("visionpipe.cli.features.folder_stack", None)
    app = typer.Typer()
    register(app)
    asked = [str(tmp_path), "-o", str(tmp_path / "out"), "-m", "vgg-digits", f"--channels={words or ' '}"]
    assert isinstance(CliRunner().invoke(app, asked).exception, InvalidRequestError)
