"""Checks VisionPipe on a machine with a GPU and no network: ``python3 deploy/gpu_check/check.py``.

Needs a Python that has torch and torchvision, and the wheels that ``prepare.py`` gathered. Runs the tests that need the
device and some of the others, then measures models through the real service, and prints one table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu-check"
CUDA_TESTS = "tests/cuda"
OTHERS = (
    "tests/models/test_devices.py", "tests/models/test_jpeg.py", "tests/models/test_preprocess.py",
    "tests/workers/test_batching.py", "tests/workers/test_classification.py", "tests/workers/test_cuda_copies.py",
    "tests/workers/test_cuda_decode.py", "tests/workers/test_cuda_graphs.py", "tests/workers/test_cuda_start.py",
    "tests/workers/test_device.py", "tests/workers/test_pipeline.py", "tests/workers/test_warmup.py",
)  # fmt: skip
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "xdist.plugin", "_hypothesis_pytestplugin")
"""Those of pytest's plugins that our settings and tests name."""
BEGAN = time.monotonic()
LEAST_S = 60.0
"""A model is not begun where less is left."""
END_S = 15.0
"""How long what is told to end may take for that."""
MODELS = ("resnet50-generated", "yolo-digits", "unet-cells")
COLUMNS = ("model", "as", "code", "batch", "forward/s", "decode/s", "service/s", "ratio", "limited by", "p50 ms")


@dataclass
class Tested:
    """What came of some tests."""

    ran: int
    failed: int
    skipped: int
    reasons: list[str]

    def fault(self, *, on_cuda: bool) -> str | None:
        """Say what is wrong: on a GPU a test that was skipped, or none at all, proves nothing."""
        if self.failed:
            return f"{self.failed} tests failed"
        if not self.ran and (on_cuda or not self.skipped):
            return "no test ran"
        if on_cuda and self.skipped:
            return f"{self.skipped} tests were skipped: {self.reasons[0]}"
        return None


def main() -> int:
    """Make the environment, test, measure, print; gives the exit status."""
    wanted = _arguments()
    python = make_environment(wanted.venv, wanted.wheels, wanted.site)
    wanted.out.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    # Plugins of this Python's pytest are no business of ours.
    environment = dict(
        os.environ,
        VISIONPIPE_CUDA_REQUIRED="1" if wanted.device != "cpu" else "",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    if not wanted.no_tests:
        for name, paths, must in (("cuda", [CUDA_TESTS], wanted.device != "cpu"), ("others", list(OTHERS), False)):
            tested = run_tests(python, name, paths, wanted.out, environment, wanted.budget)
            say(f"{name}: {tested.ran} tests passed or failed, {tested.failed} failed, {tested.skipped} skipped")
            say("\n".join(f"  skipped: {reason}" for reason in sorted(set(tested.reasons))) or "  none skipped")
            fault = tested.fault(on_cuda=must)
            faults += [f"{name}: {fault}"] if fault else []
    facts = machine(python, wanted.device)
    if not wanted.no_bench:
        for name in ("bench", *wanted.models):
            (wanted.out / f"{name}.json").unlink(missing_ok=True)
        measured: list[dict[str, Any]] = []
        # Written after each model: whoever ends this early has the others.
        for report in measure(python, wanted, faults):
            measured.append(report)
            document = {**facts, "models": measured}
            (wanted.out / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            say("  ".join(row(report)))
        say(f"\n{facts['date']}, {facts['device']}, torch {facts['torch']}, Python {facts['python']}")
        say(table([row(one) for one in measured]))
    for fault in faults:
        say(f"FAILED {fault}")
    say("gpu-check: " + ("failed" if faults else "passed"))
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the check itself")
    parser.add_argument("--wheels", type=Path, default=BUILD / "wheels")
    parser.add_argument("--venv", type=Path, default=BUILD / "venv")
    parser.add_argument("--out", type=Path, default=BUILD / "out", help="where reports are written")
    parser.add_argument(
        "--site", type=Path, action="append", default=[], help="folder of packages besides this Python's"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", default="1,64")
    parser.add_argument("--most-workers", type=int, default=1, help="try so many workers of a model at most")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds in all; what does not fit fails")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--no-bench", action="store_true")
    return parser.parse_args()


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_environment(venv: Path, wheels: Path, sites: Sequence[Path]) -> Path:
    """Make a virtual environment of the wheels over the packages of this Python; gives its interpreter."""
    if not list(wheels.glob("*.whl")):
        sys.exit(f"Expected wheels in {wheels}. Run deploy/gpu_check/prepare.py where there is a network.")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(venv)], check=True)
    python = venv / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # Not --system-site-packages: of a Python that is itself a virtual environment that would mean the one below it.
    below = [*map(str, sites), *dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))]
    (Path(own) / "below.pth").write_text("\n".join(below) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, *map(str, sorted(wheels.glob("*.whl")))], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--editable", str(ROOT)], check=True)
    return python


def within(words: Sequence[object], budget: float, environment: Mapping[str, str], **how: Any) -> tuple[int, str]:
    """Run a program for no longer than is left of the budget; gives its exit status and what it printed, if asked.

    It is asked to end, as by Ctrl-C, before it is killed: workers that it started would go on for a while.

    Raises:
        subprocess.TimeoutExpired: It did not end in time.
    """
    left_s = budget - (time.monotonic() - BEGAN)
    process = subprocess.Popen([str(word) for word in words], cwd=ROOT, env=dict(environment), text=True, **how)
    try:
        told, _ = process.communicate(timeout=None if left_s == float("inf") else max(1.0, left_s - END_S))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise
    return process.returncode, told or ""


def run_tests(
    python: Path, name: str, paths: Sequence[str], out: Path, environment: Mapping[str, str], budget: float
) -> Tested:
    """Run some tests, and read what came of them; where they do not end in time all count as failed."""
    report = out / f"{name}.xml"
    report.unlink(missing_ok=True)
    plugins = [word for plugin in PLUGINS for word in ("-p", plugin)]
    words = [python, "-P", "-m", "pytest", "-q", f"--junit-xml={report}", *plugins, *paths]
    try:
        status, _ = within(words, budget, environment)
    except subprocess.TimeoutExpired:
        status = 1
    if not report.exists():
        return Tested(0, max(status, 1), 0, [])
    tested = read_report(report)
    # pytest says 5 where nothing was collected; every other status than 0 and 1 is a fault of its own.
    return Tested(tested.ran, tested.failed or int(status not in (0, 5)), tested.skipped, tested.reasons)


def read_report(report: Path) -> Tested:
    """Count the outcomes in a report of pytest's."""
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - written by our own pytest
    skipped = [found for case in cases if (found := case.find("skipped")) is not None]
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    return Tested(len(cases) - len(skipped), failed, len(skipped), [one.get("message", "") for one in skipped])


def machine(python: Path, device: str) -> dict[str, str]:
    """Name what was measured on."""
    code = (
        "import json, sys, torch\n"
        "from models.accounting.device import device_name\n"
        "from models.devices import pick_device\n"
        "where = pick_device(sys.argv[1])\n"
        "print(json.dumps({'device': device_name(where), 'torch': torch.__version__}))"
    )
    told = subprocess.run([python, "-P", "-c", code, device], check=True, capture_output=True, text=True, cwd=ROOT)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "python": platform.python_version(), **json.loads(told.stdout)}


def measure(python: Path, wanted: argparse.Namespace, faults: list[str]) -> Iterator[dict[str, Any]]:
    """Measure each model with ``visionpipe bench``; what fails, or no longer fits, is told in ``faults``."""
    with tempfile.TemporaryDirectory(prefix="vpg") as folder:
        code = (
            f"from pathlib import Path; from tests.bench.common import write_networks; write_networks(Path({folder!r}))"
        )
        subprocess.run([python, "-c", code], cwd=ROOT, check=True)
        for model in wanted.models:
            started = time.monotonic()
            words = [
                python, "-P", "-m", "visionpipe", "bench", f"{model}:compile=off", "--device", wanted.device, "--json",
                "--seconds", str(wanted.seconds), "--rounds", str(wanted.rounds), "--concurrency", wanted.concurrency,
                "--most-workers", str(wanted.most_workers),
            ]  # fmt: skip
            if wanted.budget - (started - BEGAN) < LEAST_S:
                faults.append(f"bench of {model}: left out, the time is over")
                continue
            environment = {**os.environ, "VISIONPIPE_MODELS": folder}
            try:
                status, told = within(words, wanted.budget, environment, stdout=subprocess.PIPE)
            except subprocess.TimeoutExpired:
                faults.append(f"bench of {model}: did not end within {time.monotonic() - started:.0f} s")
                continue
            say(f"{model}: measured in {time.monotonic() - started:.0f} s")
            if status:
                faults.append(f"bench of {model}: exit status {status}")
            else:
                (wanted.out / f"{model}.json").write_text(told, encoding="utf-8")
                yield json.loads(told)


def row(report: Mapping[str, Any]) -> list[str]:
    """Make a line of the table of one model's report."""
    subject, ceiling, folder = report["subject"], report["ceiling"] or {}, report["folder"] or {}
    alone = report["points"][0] if report["points"] else {}
    return [
        subject["model"].partition("@")[0],
        subject["precision"],
        subject["code"].partition(":")[0],
        str(subject["max_batch"]),
        _figure(ceiling.get("forward_per_s")),
        _figure(ceiling.get("decode_per_s")),
        _figure(folder.get("images_per_s")),
        _figure(ceiling.get("share"), 3),
        str(ceiling.get("bound") or "-"),
        _figure(alone.get("p50_ms")),
    ]


def _figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out the table."""
    cells = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    laid = (zip(line, widths, strict=True) for line in cells)
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in line).rstrip() for line in laid)


if __name__ == "__main__":
    sys.exit(main())
