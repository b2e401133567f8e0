"""From a folder of pictures to answers of one's own model: retrain, serve, classify, embed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.cli import app
from models.recipes import digits
from visionpipe.settings import Settings
from visionpipe.stack import local_stack

LABELS = {3: "three", 7: "seven", 8: "eight"}


def write_digits(folder: Path, per_class: int) -> None:
    training, targets = digits.training_split(), digits.targets()
    for digit, label in LABELS.items():
        (folder / label).mkdir(parents=True)
        for index in training[targets[training] == digit][:per_class]:
            Image.fromarray(digits.pixels()[index]).save(folder / label / f"{index}.png")


@pytest.mark.timeout(300)
def test_a_model_retrained_on_a_folder_is_served_at_once(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, images, fresh = tmp_path / "models", tmp_path / "images", tmp_path / "fresh"
    monkeypatch.setenv("VISIONPIPE_MODELS", str(models))
    write_digits(images, 12)
    words = ["--base", "lenet-digits", "--images", str(images), "--name", "my-digits", "--mode", "svm"]
    done = CliRunner().invoke(app, ["retrain", *words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "Serve it: visionpipe worker my-digits" in done.stdout

    held_out, targets = digits.test_split(), digits.targets()
    chosen = [index for digit in LABELS for index in held_out[targets[held_out] == digit][:8]]
    fresh.mkdir()
    paths = []
    for index in chosen:
        paths.append(fresh / f"{index}.png")
        Image.fromarray(digits.pixels()[index]).save(paths[-1])
    with local_stack(["my-digits"], settings=settings.model_copy(update={"models": models})) as client:
        results = client.submit("classification", paths, model="my-digits").results(60)
        answers = [result.classes[0].label for result in results]
        vector = client.embed(paths[0], model="my-digits", normalize=True)
        stored = client.embed(paths[0], model="my-digits", normalize=True, as_artifact=True)
    truth = [LABELS[int(targets[index])] for index in chosen]
    assert np.mean([answer == label for answer, label in zip(answers, truth, strict=True)]) >= 0.9
    assert {len(result.classes) for result in results} == {3}
    assert all(sum(found.score for found in result.classes) == pytest.approx(1, abs=1e-3) for result in results)
    assert (vector.dimensions, vector.layer, vector.normalized) == (84, "output:input", True)
    assert stored.artifact is not None
    assert stored.artifact.media_type == "application/x-npy"
