"""The plain loop answers like a person's own script would, and passes over what is no image."""

from __future__ import annotations

import json

from PIL import Image
from typer.testing import CliRunner

from models.recipes import digits
from workers.bare import BareLoop, app


def test_the_loop_labels_digits_and_passes_over_the_rest(tmp_path):
    shown = digits.test_split()[:20].tolist()
    for index in shown:
        Image.fromarray(digits.pixels()[index]).save(tmp_path / f"{index:04}.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    paths = sorted(path.name.encode() for path in tmp_path.iterdir())
    answers = dict(BareLoop("lenet-digits", batch=7).run(tmp_path, [*paths, b"gone.png"]))
    assert sorted(answers) == [f"{index:04}.png" for index in shown]
    right = sum(answers[f"{index:04}.png"] == str(digits.targets()[index]) for index in shown)
    assert right >= 19


def test_the_command_prints_rate_and_answers_as_json(tmp_path):
    Image.fromarray(digits.pixels()[0]).save(tmp_path / "a.png")
    done = CliRunner().invoke(app, [str(tmp_path), "--model", "lenet-digits", "--rounds", "2"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["images"], said["answers"]) == (1, {"a.png": "0"})
    assert said["images_per_s"] > 0
