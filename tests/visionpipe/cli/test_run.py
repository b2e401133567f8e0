"""The run command, through a real queue."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.results import SAMPLES
from visionpipe.cli.app import app
from visionpipe.errors import UnsupportedImageError
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import Detection, DetectionResult, SegmentationResult, SegmentedClass
from visionpipe.store import open_store, put_artifact

VISIONPIPE = Path(sys.executable).with_name("visionpipe")


@pytest.fixture
def ask(settings, fake_worker):
    """Run the command against the fake worker, which answers with each image's bytes as its class."""

    def ask(*words: str):
        return CliRunner().invoke(
            app, ["run", *words, "-m", "lenet-digits", "--redis-url", str(settings.redis_url)], catch_exceptions=False
        )

    return ask


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(path.stem.encode())
    return [str(path) for path in paths]


def test_one_image_is_shown_in_full(ask, pictures):
    told = ask("classification", pictures[0])
    assert told.exit_code == 0, told.output
    for part in ("lenet-digits@000000000000  fp32 on cpu", "one.png", "class", "1.0000", "━" * 24):
        assert part in told.stdout


def test_several_images_are_a_line_each_in_order(ask, pictures):
    told = ask("classification", *pictures)
    lines = [line.split() for line in told.stdout.splitlines() if ".png" in line]
    assert [(line[0].rpartition("/")[2], line[1]) for line in lines] == [
        ("one.png", "one"),
        ("two.png", "two"),
        ("three.png", "three"),
    ]


def test_json_has_every_item_with_its_job(ask, pictures, fake_worker):
    document = json.loads(ask("classification", *pictures, "--json", "-k", "2").stdout)
    assert document["task"] == "classification"
    assert document["model"]["name"] == "lenet-digits"
    assert [item["index"] for item in document["items"]] == [0, 1, 2]
    assert [item["result"]["classes"][0]["label"] for item in document["items"]] == ["one", "two", "three"]
    assert all(item["job"] for item in document["items"])
    assert {request.options.top_k for request in fake_worker.requests} == {2}


def test_a_bad_image_harms_no_other_and_the_exit_status_says_so(ask, pictures, fake_worker, tmp_path):
    def picky(data, request, good=fake_worker.answer):
        if data == b"two":
            raise UnsupportedImageError("text is no picture")
        return good(data, request)

    fake_worker.answer = picky
    empty = tmp_path / "empty.png"
    empty.touch()
    told = ask("classification", *pictures, str(empty), "--json")
    codes = [item["error"] and item["error"]["code"] for item in json.loads(told.stdout)["items"]]
    assert codes == [None, "unsupported_image", None, "invalid_image"]
    assert told.exit_code == 3
    assert "unsupported_image text is no picture" in ask("classification", *pictures).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classification", "lost.png"], "There is no file 'lost.png'"),
        (["classification", "."], "visionpipe batch"),
        (["clasification"], "Known tasks: classification"),
        (["classification", "-O", "topk=3"], "known fields: top_k"),
        (["classification", "-O", "top_k"], "-O KEY=VALUE"),
        (["style_transfer"], "at least one --style"),
        (["classification"], "at least 1 item"),
        (["classification", "--save", "/proc/none"], "--save /proc/none"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_starts(ask, words, message):
    told = ask(*words)
    assert told.exit_code == 1
    assert message in told.stderr


def test_nobody_serves_the_model(settings, pictures):
    words = ["run", "classification", pictures[0], "-m", "resnet50", "--redis-url", str(settings.redis_url), "--json"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert json.loads(told.stdout)["error"]["code"] == "no_worker"


def test_artifacts_are_announced_and_saved_under_the_images_name(ask, pictures, settings, fake_worker, tmp_path):
    def mask(data, request):
        with connect(str(settings.redis_url)) as redis:
            ref: ArtifactRef = put_artifact(open_store(settings, redis), b"mask of " + data, "image/png", settings)
        area = SegmentedClass(class_id=0, label="background", area_px=9, fraction=1.0)
        return SegmentationResult(label_map=ref, classes=[area])

    fake_worker.answer = mask
    assert "--save FOLDER" in ask("segmentation", pictures[0]).stdout
    told = ask("segmentation", *pictures, "--save", str(tmp_path / "out"), "--json")
    assert json.loads(told.stdout)["items"][1]["saved"] == {"label_map": str(tmp_path / "out" / "two-label_map.png")}
    assert (tmp_path / "out" / "two-label_map.png").read_bytes() == b"mask of two"


def test_a_timeout_cancels_what_was_asked(ask, pictures, settings, fake_worker):
    fake_worker.hold()
    told = ask("classification", pictures[0], "--timeout", "0.5")
    assert told.exit_code == 1
    assert "result_timeout" in told.stderr
    with connect(str(settings.redis_url)) as redis:
        assert run(redis, calls.accounts())["lenet-digits"].cancelled == 1


def test_a_timeout_takes_no_answer_away_that_came_in_time(ask, pictures, settings, fake_worker):
    at_once = fake_worker.answer

    def slow_on_two(data, request):
        if data == b"two":
            time.sleep(3)
        return at_once(data, request)

    fake_worker.answer = slow_on_two
    told = ask("classification", *pictures, "--timeout", "1.5", "--json")
    assert told.exit_code == 3
    items = json.loads(told.stdout)["items"]
    assert items[0]["result"]["classes"][0]["label"] == "one"
    assert [item["error"] and item["error"]["code"] for item in items] == [None, "result_timeout", "result_timeout"]
    with connect(str(settings.redis_url)) as redis:
        assert run(redis, calls.accounts())["lenet-digits"].cancelled == 1


def test_ctrl_c_cancels_what_was_asked(pictures, settings, fake_worker):
    fake_worker.hold()
    words = ["run", "classification", pictures[0], "-m", "lenet-digits", "--redis-url", str(settings.redis_url)]
    process = subprocess.Popen(
        [VISIONPIPE, *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with connect(str(settings.redis_url)) as redis:
        ends_at = time.monotonic() + 30
        while "lenet-digits" not in run(redis, calls.accounts()) and time.monotonic() < ends_at:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert run(redis, calls.accounts())["lenet-digits"].cancelled == 1


def test_with_nothing_running_one_command_does_the_whole_job(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    Image.fromarray((digits.images[7] * 15).astype("uint8")).resize((96, 96)).save(tmp_path / "seven.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
    environment["VISIONPIPE_DATA_DIR"] = str(tmp_path / "data")
    done = subprocess.run(
        [VISIONPIPE, "run", "classification", tmp_path / "seven.png", "-m", "lenet-digits", "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"][0]["result"]["classes"][0]["label"] == str(digits.target[7])


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection", "spatial_transformer", "embedding"])
def test_the_drawing_of_every_task_is_saved_and_its_answer_is_printed(ask, settings, fake_worker, tmp_path, task):
    def sample(data, request):
        with Image.open(io.BytesIO(data)) as image, connect(str(settings.redis_url)) as redis:
            store = open_store(settings, redis)
            return SAMPLES[task](image.size, partial(put_artifact, store, settings=settings))

    fake_worker.answer = sample
    for name, kind in (("one.png", "PNG"), ("two.jpg", "JPEG")):
        Image.new("RGB", (60, 40), (90, 120, 150)).save(tmp_path / name, kind)
    told = ask(task, str(tmp_path / "one.png"), str(tmp_path / "two.jpg"), "--save", str(tmp_path / "out"), "--json")
    assert told.exit_code == 0, told.output
    saved = [item["saved"] for item in json.loads(told.stdout)["items"]]
    assert [entry["overlay"] for entry in saved] == [
        str(tmp_path / "out" / "one-overlay.png"),
        str(tmp_path / "out" / "two-overlay.jpg"),
    ]
    for entry in saved:
        with Image.open(entry["overlay"]) as drawing:
            assert max(drawing.size) >= 384
    if task == "segmentation":
        assert fake_worker.requests[-1].options.instance_map is True
    told = ask(task, str(tmp_path / "one.png"))
    made = sample((tmp_path / "one.png").read_bytes(), fake_worker.requests[-1])
    words = [value for row in made.rows() for value in row.values()] or [made.summary()]
    assert all(word in told.stdout for word in words)


def test_a_drawing_that_cannot_be_made_is_told_and_nothing_else_is_lost(ask, pictures, tmp_path):
    told = ask("classification", pictures[0], "--save", str(tmp_path / "out"), "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["items"][0]["saved"] == {}
    assert "was not drawn" in told.stderr


def test_a_long_result_is_cut_and_says_so(ask, pictures, fake_worker):
    def many(data, request):
        found = Detection(box_xyxy=(0.0, 0.0, 1.0, 1.0), class_id=1, label="dot", score=0.5)
        return DetectionResult(detections=[found] * 100)

    fake_worker.answer = many
    told = ask("detection", pictures[0])
    assert "100 x dot" in told.stdout
    assert "... and 60 more" in told.stdout
