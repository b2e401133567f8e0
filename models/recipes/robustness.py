"""``python -m models.recipes.robustness``: how much change the digits' network withstands, in a minute.

Every one of the 360 held-out digits is attacked at every epsilon by PGD and by the fast gradient method. An answer
counts as it is after the attacked picture was written as a PNG file, decoded and preprocessed again.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.attacks import Goal, LevelClassifier, Method, Norm, Plan, Search, Subject
from models.catalog import Catalog
from models.images import decode
from models.loading import load
from models.preprocess import Preprocess
from models.recipes import digits

MODEL = "lenet-digits"
"""Whose robustness."""
EPSILONS: dict[Norm, tuple[float, ...]] = {
    "linf": tuple(levels / 255 for levels in (8, 16, 24, 32, 48, 64)),
    "l2": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
}
"""Largest allowed changes, for values in [0, 1]."""


@dataclass(frozen=True)
class Curve:
    """Accuracy against epsilon.

    Attributes:
        plan: The attack.
        clean: Accuracy on the digits themselves, a fraction of 1.
        accuracy: By epsilon, in the plan's order.
        seconds: What it took.
    """

    plan: Plan
    clean: float
    accuracy: list[float]
    seconds: float

    @property
    def rises(self) -> list[str]:
        """Where accuracy grows with epsilon."""
        steps = zip(self.plan.epsilons, self.accuracy, self.accuracy[1:], strict=False)
        return [f"{epsilon:.4g}: {before:.2%} to {after:.2%}" for epsilon, before, after in steps if after > before]


class Attacked:
    """The bundled network, and its answers to attacked digits."""

    def __init__(self) -> None:
        entry = Catalog(None).find(MODEL)
        self.how = entry.card.preprocess
        self.network = LevelClassifier(load(entry), mean=self.how.mean, std=self.how.std)

    def answer(self, levels_CHW: Tensor) -> int:
        """Classify an input in levels."""
        with torch.inference_mode():
            return int(self.network(levels_CHW[None].float()).argmax())

    def answers(self, index: int, plan: Plan) -> tuple[int, list[int]]:
        """Attack one digit; gives what the network says before, and after each epsilon's attack."""
        subject = Subject.of(Image.fromarray(digits.pixels()[index]), self.how)
        right, before = int(digits.targets()[index]), self.answer(subject.levels)
        if before != right:
            return before, [before] * len(plan.epsilons)
        search = Search(self.network, subject.levels, Goal(right), plan)
        for _ in search.run():
            pass
        return before, [self._reread(subject, search.within(which)[0].levels) for which in range(len(plan.epsilons))]

    def _reread(self, subject: Subject, levels_CHW: Tensor) -> int:
        stream = io.BytesIO()
        subject.altered(levels_CHW).save(stream, "PNG")
        stored = decode(stream.getvalue(), max_bytes=2**20, max_pixels=2**20).image
        return self.answer(Preprocess(self.how).levels(stored))


def measure(plan: Plan, indices: Sequence[int]) -> Curve:
    """Attack digits.

    Args:
        plan: The attack.
        indices: Of the digits.
    """
    attacked, started = Attacked(), time.monotonic()
    answers = [attacked.answers(index, plan) for index in indices]
    right = digits.targets()[list(indices)]
    clean = float((np.array([before for before, _ in answers]) == right).mean())
    after = np.array([told for _, told in answers])
    return Curve(plan, clean, (after == right[:, None]).mean(axis=0).tolist(), time.monotonic() - started)


def write(folder: Path, curves: Sequence[Curve], num_digits: int) -> None:
    """Write ``robustness.csv`` and ``robustness.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "robustness.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["method", "norm", "epsilon", "images", "accuracy"])
        for curve in curves:
            points = zip((0.0, *curve.plan.epsilons), (curve.clean, *curve.accuracy), strict=True)
            table.writerows(
                [curve.plan.method, curve.plan.norm, epsilon, num_digits, value] for epsilon, value in points
            )
    (folder / "robustness.png").write_bytes(_plot(curves, num_digits))


def _plot(curves: Sequence[Curve], num_digits: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    levels = curves[0].plan.norm == "linf"
    for curve in curves:
        x = [epsilon * (255 if levels else 1) for epsilon in (0.0, *curve.plan.epsilons)]
        axes.plot(x, [curve.clean, *curve.accuracy], marker="o", label=curve.plan.method.upper())
    axes.margins(x=0.05)
    axes.set_ylim(-0.02, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("epsilon, in grey levels of 255" if levels else "epsilon, L2 of values in [0, 1]")
    axes.set_ylabel("accuracy")
    axes.set_title(f"{MODEL}, {num_digits} held-out digits, {'L-infinity' if levels else 'L2'}", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def report(curves: Sequence[Curve], say: Callable[[object], None]) -> None:
    """Print a table, and where a curve rises."""
    table = Table("epsilon", *(curve.plan.method.upper() for curve in curves))
    table.add_row("0", *(f"{curve.clean:.2%}" for curve in curves))
    for which, epsilon in enumerate(curves[0].plan.epsilons):
        name = f"{epsilon * 255:.0f}/255" if curves[0].plan.norm == "linf" else f"{epsilon:g}"
        table.add_row(name, *(f"{curve.accuracy[which]:.2%}" for curve in curves))
    say(table)
    for curve in curves:
        shape = f"rises after {', '.join(curve.rises)}" if curve.rises else "never rises with epsilon"
        say(f"{curve.plan.method.upper()}: {shape}; {curve.seconds:.0f} s")


def main() -> None:
    """Parse the command line, attack, print and write."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.robustness", description=__doc__.split("\n")[0])
    parser.add_argument("--norm", choices=get_args(Norm), default="linf")
    parser.add_argument("--steps", type=int, default=40, help="of PGD")
    parser.add_argument("--restarts", type=int, default=1, help="of PGD")
    parser.add_argument("--limit", type=int, help="attack only so many digits")
    parser.add_argument("--out", type=Path, default=Path("robustness"), help="where table and plot are written")
    arguments = parser.parse_args()
    indices = digits.test_split()[: arguments.limit].tolist()
    methods: tuple[Method, ...] = ("pgd", "fgsm")
    plans = [
        Plan(
            EPSILONS[arguments.norm],
            method=method,
            norm=arguments.norm,
            steps=arguments.steps,
            restarts=arguments.restarts if method == "pgd" else 1,
        )
        for method in methods
    ]
    curves = [measure(plan, indices) for plan in plans]
    console = Console(highlight=False)
    console.print(f"{MODEL}, {len(indices)} held-out digits, {arguments.norm}")
    report(curves, console.print)
    write(arguments.out, curves, len(indices))
    console.print(f"Written: {arguments.out / 'robustness.csv'}, {arguments.out / 'robustness.png'}", soft_wrap=True)


if __name__ == "__main__":
    main()
