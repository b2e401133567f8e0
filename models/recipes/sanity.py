"""``python -m models.recipes.sanity -o FOLDER``: which attribution methods show what a network has learnt.

Trains ResNet-18 on cluttered digits unless FOLDER holds it already, then runs the sanity check of four methods on it
and on the bundled ``vgg-digits``, over canvases of held-out digits. Prints the tables, writes them as CSV, and draws
the figure that the README shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from models.attribution.strip import stacked
from models.auditing import tables
from models.auditing.audit import strip_of
from models.auditing.measuring import AuditOptions, Figures, measure
from models.auditing.subject import Subject
from models.auditing.summary import Summary, summarize
from models.catalog import Catalog
from models.recipes import resnet_digits, stn_canvases

FIGURE = Path(__file__).parents[1] / "figures" / "sanity.png"
"""What the README shows; a wheel leaves it out."""
NUM_IMAGES = 20
"""Canvases that are audited, of held-out digits."""
FIGURE_CANVAS, FIGURE_DEPTHS, FIGURE_CELL_PX = 0, 6, 91
"""Which canvas is drawn, at how many depths, and how large: 900 px in all."""
COLOURS = 256
"""Of the figure's palette, which makes the file a good deal smaller."""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.sanity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="models folder, for the ResNet and the tables")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="canvases that are audited")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the figure is written")
    arguments = parser.parse_args()
    console = Console(width=110)
    run(arguments.output, arguments.images, arguments.figure, console)


def run(output: Path, num_images: int, figure: Path, console: Console) -> None:
    """Train where that is needed, audit both networks, write everything."""

    def report(line: str) -> None:
        console.print(line, highlight=False)

    if not (output / resnet_digits.NAME / "card.toml").exists():
        resnet_digits.train(output / resnet_digits.NAME, report=report)
    canvases = [Image.fromarray(levels) for levels in stn_canvases.examples(num_images).levels()]
    strips: list[Image.Image] = []
    for name in ("vgg-digits", resnet_digits.NAME):
        subject = Subject.open(Catalog(output).find(name), "cpu")
        summaries, figures = audit(subject, canvases, report)
        report(f"{name}, {num_images} canvases of held-out digits; similarities are those with all layers random")
        console.print(tables.table(summaries), highlight=False)
        for note in tables.notes(summaries):
            report(note)
        tables.write_methods(summaries, output / f"sanity-{name}.csv")
        tables.write_depths(figures, output / f"sanity-{name}-depths.csv")
        strips.append(_strip(subject, canvases[FIGURE_CANVAS]))
    drawn = stacked(strips).quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE, kmeans=1)
    figure.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(figure, optimize=True)
    report(f"{figure}: {drawn.width}x{drawn.height}, {figure.stat().st_size:,} bytes")


def audit(
    subject: Subject, canvases: list[Image.Image], report: Callable[[str], None]
) -> tuple[list[Summary], list[Figures]]:
    """Run the sanity check of each method on each canvas, every canvas with random weights of its own."""
    figures: list[Figures] = []
    for number, canvas in enumerate(canvases):
        options = AuditOptions(settings=replace(AuditOptions().settings, seed=number))
        outcomes = measure(subject, canvas, str(number), options)
        figures += [outcome.figures for outcome in outcomes if outcome.figures is not None]
        if (number + 1) % 5 == 0:
            report(f"{subject.entry.name}: {number + 1} of {len(canvases)} canvases")
    methods = AuditOptions().methods
    return [summarize(method, [one for one in figures if one.method == method]) for method in methods], figures


def _strip(subject: Subject, canvas: Image.Image) -> Image.Image:
    outcomes = list(measure(subject, canvas, "", AuditOptions(max_depths=FIGURE_DEPTHS)))
    title = f"{subject.entry.name}: maps of its answer while its layers become random, from the last to the first"
    drawn = strip_of(outcomes, title, cell_px=FIGURE_CELL_PX)
    assert drawn is not None
    return drawn


if __name__ == "__main__":
    main()
