"""What precision, compiling and scaled decoding cost in answers: python -m tests.bench.parity [MODEL...].

Each bundled, trained model answers its held-out pictures as it is served under ``auto``, and under every policy by
itself, against fp32 with whole pictures decoded, nothing folded and nothing compiled. Ends with 1 where what is served
misses a target.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.catalog import Catalog
from models.compiling import Packages, compile_network, has_compiler, load_compiled
from models.images import decode
from tests.bench.common import table
from tests.bench.parity_data import MAX_DELTA_P, MAX_POINTS, MIN_AGREEMENT, Figures, HeldOut, held_out
from visionpipe.queue import Claim
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import Lane
from visionpipe.settings import Settings
from visionpipe.tasks import build_request
from workers.cuda_copies import arrived
from workers.device import cpu_flags, keep_freed_memory
from workers.host import HostOptions, load_model
from workers.hosted import HostedModel
from workers.runtime import Runtime, make_runtimes
from workers.version import version
from workers.work import HeldJob, Work

MODELS = ("lenet-digits", "vgg-digits", "stn-digits", "unet-cells", "yolo-digits", "fasterrcnn-digits")
BATCH = 16
LIMIT = 2**28


@dataclass(frozen=True)
class Policy:
    """How a network answers."""

    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, folded{', compiled' if self.compiled else ''}"


POLICIES = [Policy(precision, compiled) for precision in ("fp32", "bf16") for compiled in (False, True)]


class Asked:
    """A model's runtime, asked about pictures as a worker asks it, without a queue.

    Args:
        hosted: The model.
        runtime: Of the task.
        options: Of the request.
    """

    def __init__(self, hosted: HostedModel, runtime: Runtime, options: Mapping[str, Any]) -> None:
        self.hosted = hosted
        self.runtime = runtime
        self._options = options

    def answers(self, task: str, files: Sequence[bytes], *, scaled: bool = False) -> list[Any]:
        """What ``forward`` gives for each picture."""
        ref = BlobImage(key="blob:parity:0", size_bytes=1)
        request: Any = build_request(task, options=self._options, model=self.hosted.card.name, images=[ref])
        claim = Claim("parity", "parity", b"", Lane.BULK, 0, 0.0, None, frozenset())
        store: Any = None
        told: list[Any] = []
        for first in range(0, len(files), BATCH):
            works = []
            for file in files[first : first + BATCH]:
                work = Work(HeldJob(claim, request, open_items=1), 0, ref, read=store, store=store)
                enough_px = self.runtime.enough_px() if scaled else None
                work.image = decode(file, max_bytes=LIMIT, max_pixels=LIMIT, enough_px=enough_px)
                work.size_wh = work.image.size_wh
                self.runtime.prepare(work)
                works.append(work)
            outputs: Any = arrived(self.runtime.forward(works))
            told += list(getattr(outputs, "probabilities", outputs))
        return told


def measure(model: str, packages: Path) -> tuple[list[list[object]], bool]:
    """Measure one model; gives rows, and whether what is served holds its targets."""
    print(f"{model} ...", file=sys.stderr, flush=True)
    exact = _plain(model)
    pictures = held_out(model, exact.hosted.card.labels)
    truth = _asked(exact, pictures).answers(pictures.task, pictures.files)
    served, _ = load_model(HostOptions(model, redis_url="", device="cpu"), Settings(models=None))
    found: dict[Policy, tuple[Asked, Figures]] = {}
    for policy in POLICIES:
        asked = _folded(model, policy.precision, pictures)
        if not policy.compiled or _compile(asked, pictures, packages):
            found[policy] = asked, pictures.compare(truth, asked.answers(pictures.task, pictures.files))
    # A worker refuses compiled code that its own check finds to answer otherwise, and stays eager.
    chosen = Policy(served.device.precision, Policy(served.device.precision, True) in found)
    rows = [_row(model, policy, found.get(policy, (None, None))[1], served=policy == chosen) for policy in POLICIES]
    asked, figures = found[chosen]
    holds = figures.holds
    # Which tells whether pictures may be decoded at a part of their size.
    asked.runtime.warm_up(1)
    if asked.runtime.enough_px() is not None and (large := pictures.enlarged()) is not None:
        whole = _asked(exact, large).answers(large.task, large.files)
        figures = large.compare(whole, asked.answers(large.task, large.files, scaled=True))
        rows.append(_row(model, f"{chosen}, scaled decode", figures, served=True))
        holds = holds and figures.holds
    return rows, holds


@dataclass(frozen=True)
class Plain:
    """A model as it was trained."""

    hosted: HostedModel
    runtimes: dict[str, Runtime]


def _plain(model: str) -> Plain:
    hosted = HostedModel(Catalog(None).find(model), device="cpu")
    return Plain(hosted, make_runtimes(hosted))


def _asked(plain: Plain, pictures: HeldOut) -> Asked:
    return Asked(plain.hosted, plain.runtimes[pictures.task], pictures.options)


def _folded(model: str, precision: str, pictures: HeldOut) -> Asked:
    plain = _plain(model)
    plain.hosted.set_precision(precision)
    return _asked(plain, pictures)


def _compile(asked: Asked, pictures: HeldOut, folder: Path) -> bool:
    """Compile for the shapes of the pictures as a worker would; says whether it would use the packages."""
    answering = asked.runtime.answering
    if answering is None or not has_compiler():
        return False
    asked.answers(pictures.task, pictures.files[:BATCH])
    precision = asked.hosted.device.precision
    kept = Packages(
        folder, asked.hosted.entry.digest, answering.part, precision, frozenset(cpu_flags()), version=version()
    )
    for shape in list(answering.spent_s):
        compile_network(answering.eager, shape, kept.path(shape), dtype=answering.dtype)
        compiled = load_compiled(kept.path(shape))
        if not all(asked.runtime.checks(compiled, shape)):
            return False
        answering.use(compiled, shape)
    return True


def _row(model: str, policy: object, figures: Figures | None, *, served: bool) -> list[object]:
    if figures is None:
        return [model, policy, "yes" if served else "", "", "", "", "", "", "eager"]
    verdict = "pass" if figures.holds else "FAIL"
    return [
        model,
        policy,
        "yes" if served else "",
        "" if figures.same is None else f"{100 * figures.same:.2f} %",
        "" if figures.max_delta_p is None else f"{figures.max_delta_p:.4f}",
        figures.measure,
        f"{figures.exact:.2f}",
        f"{figures.quick - figures.exact:+.2f}",
        verdict if served else f"({verdict})",
    ]


def main(wanted: Sequence[str]) -> None:
    """Print the table; exit with 1 where what is served misses a target."""
    keep_freed_memory()
    torch.set_grad_enabled(False)
    rows, hold = [], True
    with tempfile.TemporaryDirectory(prefix="vpparity") as folder:
        for model in (name for name in MODELS if not wanted or name in wanted):
            more, holds = measure(model, Path(folder))
            rows += more
            hold = hold and holds
    title = (
        "Answers against fp32, whole pictures, nothing folded or compiled; targets: same class >= "
        f"{MIN_AGREEMENT:.1%}, |dp| <= {MAX_DELTA_P}, accuracy within {MAX_POINTS} points"
    )
    table(title, ["model", "policy", "served", "same", "max |dp|", "measure", "fp32", "change", "verdict"], rows)
    if not hold:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
