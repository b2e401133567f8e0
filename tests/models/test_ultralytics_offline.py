"""Each test is a process of its own: importing ultralytics can be done once, and changes a process for good."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

WATCH = """
import json, os, socket, sys

reached, written = [], []

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        reached.append([event, repr(arguments)])
        raise OSError("there is no network here")
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(arguments[0])
    if event in ("os.mkdir", "os.rename"):
        written.append(str(arguments[0]))
    if event == "subprocess.Popen" and any(word in repr(arguments) for word in ("pip", "uv ", "git", "curl")):
        reached.append([event, repr(arguments)])

sys.addaudithook(hook)
"""

USE = """
import numpy as np, torch
from models import ultralytics_offline
from models.networks import yolo

network = yolo.build("yolo11n", nc=3).eval()
with torch.inference_mode():
    network(torch.rand(1, 3, 64, 64))
yolo.fuse(network)
YOLO = ultralytics_offline.import_module("ultralytics").YOLO
drawn = YOLO("yolo11n.yaml").predict(np.full((64, 64, 3), 99, np.uint8), imgsz=64, conf=1e-9, max_det=3)[0]
assert np.asarray(drawn.plot(pil=True)).shape == (64, 64, 3)
ultralytics_offline.import_module("ultralytics.utils.checks").check_requirements("a-package-that-is-not-there")
"""


def _run(code, home, **variables):
    # No variable of ours but these: pytest's own would switch the statistics off by themselves.
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(home.parent / "tmp"),
        **variables,
    }
    (home.parent / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_building_predicting_and_drawing_reach_no_network_and_write_nothing_of_the_users(home):
    told = _run(
        WATCH + USE + "print(json.dumps({'reached': reached, 'written': written}))",
        home,
    )
    assert told["reached"] == []
    outside = [path for path in told["written"] if not path.startswith(("/dev/", str(home.parent / "tmp")))]
    assert outside == []
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in home.parent.iterdir()) == ["home", "tmp"]


def test_left_alone_ultralytics_does_both_and_is_silenced_even_then(home):
    told = _run(
        WATCH
        + """
import ultralytics.engine.model
from ultralytics.utils import checks, events
alone = {"reached": list(reached), "written": list(written)}
events.events.enabled = True
from models import ultralytics_offline
utils = ultralytics_offline.import_module("ultralytics.utils")
on = [events.events.enabled, utils.ONLINE, checks.ONLINE, checks.AUTOINSTALL, utils.is_online()]
print(json.dumps({**alone, "on": on}))
""",
        home,
    )
    assert any("getaddrinfo" in event for event, _ in told["reached"])
    assert any(path.startswith(str(home)) for path in told["written"])
    assert list(home.rglob("settings.json"))
    assert told["on"] == [False] * 5


def test_the_process_keeps_its_threads_variables_and_formats_and_takes_the_temporary_folder_with_it(home):
    told = _run(
        """
        import json, os
        import cv2, numpy as np, torch
        before = dict(os.environ)
        torch.set_num_threads(2); cv2.setNumThreads(3)
        saved, shown = torch.save, str(np.array([0.5, 123456.75]))
        from models import ultralytics_offline
        ultralytics_offline.import_module("ultralytics.nn.tasks")
        folder = ultralytics_offline.import_module("ultralytics.utils").USER_CONFIG_DIR
        assert (folder / "Arial.ttf").is_file()
        print(json.dumps({
            "changed": sorted(name for name, value in os.environ.items() if before.get(name) != value),
            "threads": [torch.get_num_threads(), cv2.getNumThreads()],
            "same": [torch.save is saved, str(np.array([0.5, 123456.75])) == shown],
            "folder": str(folder),
        }))
        """,
        home,
    )
    assert told["changed"] == ["MPLCONFIGDIR", "YOLO_AUTOINSTALL", "YOLO_OFFLINE", "YOLO_VERBOSE"]
    assert told["threads"] == [2, 3]
    assert told["same"] == [True, True]
    assert told["folder"].startswith(str(home.parent / "tmp"))
    assert not Path(told["folder"]).exists()


def test_without_ultralytics_the_error_names_the_extra_and_the_licence(monkeypatch):
    from models import ultralytics_offline
    from models.errors import ModelLoadFailed

    monkeypatch.setitem(sys.modules, "ultralytics.missing", None)
    with pytest.raises(ModelLoadFailed, match=r"visionpipe\[yolo\].*AGPL"):
        ultralytics_offline.import_module("ultralytics.missing")
