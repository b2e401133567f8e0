"""Counted parameters and multiply-adds against the published ones: ``python -m tests.bench.costs [--task T]``."""

from __future__ import annotations

import argparse
import time

from models import zoo
from models.accounting.counting import profile
from models.catalog import Catalog


def main() -> None:
    """Print a line for every model of torchvision's registry, and what is more than 1 % off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="classification", choices=("classification", "segmentation", "detection"))
    task = parser.parse_args().task
    catalog, off, start = Catalog(), [], time.monotonic()
    names = zoo.names(task)
    for name in names:
        counted = profile(catalog.find(name))
        gflops, published = counted.multiply_adds / 1e9, counted.published
        deviation = gflops / published["gflops"] - 1
        same = counted.parameters == published["num_params"]
        shape = "x".join(map(str, counted.input_shape))
        verdict = "as published" if same else f"published: {published['num_params']:,.0f}"
        # torchvision rounds to thousandths, which is more than 1 % of its smallest network.
        rounded = abs(gflops - published["gflops"]) <= 0.0005
        print(
            f"{name:44} {shape:>11} {counted.parameters:>11,} parameters {verdict}, {gflops:8.4f} GFLOPs, published "
            f"{published['gflops']:8.3f}: {deviation:+.2%}{' (rounding)' if rounded and abs(deviation) > 0.01 else ''}",
            flush=True,
        )
        if not same or (abs(deviation) > 0.01 and not rounded):
            off.append(name)
    print(f"{len(names)} models in {time.monotonic() - start:.0f} s; off: {', '.join(off) or 'none'}")


if __name__ == "__main__":
    main()
