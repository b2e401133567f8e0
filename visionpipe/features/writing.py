"""Writes what was found: sheets, tables, and a page to look at."""

from __future__ import annotations

import csv
import html
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from visionpipe.drawing.files import decode, encode
from visionpipe.features.patterns import Pattern
from visionpipe.features.ranking import Excited, UnitKey
from visionpipe.features.sheets import MAX_UNITS, Block, nine_patches
from visionpipe.runs.files import MARK, make_folder, write_whole
from visionpipe.runs.lock import writable
from visionpipe.runs.names import as_base64, as_text, as_url, real_path
from visionpipe.runs.outputs import replacing

SHEETS = "sheets"
"""Folder of the sheets."""
COLUMNS = [
    *("layer", "channel", "rank", "path", "path_base64", "activation"),
    *("row", "column", "x1", "y1", "x2", "y2", "pattern", "patch"),
]

Units = dict[UnitKey, list[Excited]]
Found = dict[tuple[UnitKey, bytes], Pattern]


def write_tables(out: Path, units: Units, found: Found, facts: dict[str, Any]) -> None:
    """Write ``units.csv`` and ``units.json``: every unit with its images, ranked."""
    with replacing(out / "units.csv") as file:
        table = csv.writer(file, lineterminator="\r\n")
        table.writerow(COLUMNS)
        for (layer, channel), images in units.items():
            for rank, image in enumerate(images, start=1):
                pattern = found.get(((layer, channel), image.path), Pattern())
                table.writerow(
                    [
                        *(layer, channel, rank, as_text(image.path), as_base64(image.path), f"{image.activation:.6g}"),
                        *(image.position_yx or ("", "")),
                        *([f"{side:g}" for side in image.box_xyxy] if image.box_xyxy else [""] * 4),
                        *pattern,
                    ]
                )
    entries = [_unit(key, images, found) for key, images in units.items()]
    with replacing(out / "units.json") as file:
        json.dump({**facts, "units": entries}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def write_sheets(out: Path, units: Units, found: Found, *, top: int, subtitle: str) -> dict[str, list[str]]:
    """Draw the sheets, ``sheets/<layer>.png``; gives their names by layer."""
    make_folder(out, SHEETS)
    made: dict[str, list[str]] = {}
    for layer in dict.fromkeys(layer for layer, _ in units):
        keys = [key for key in units if key[0] == layer]
        for start in range(0, len(keys), MAX_UNITS):
            blocks = [_block(out, key, units[key], found) for key in keys[start : start + MAX_UNITS]]
            number = "" if start == 0 else f"-{start // MAX_UNITS + 1}"
            name = f"{SHEETS}/{re.sub(r'[^A-Za-z0-9_.-]+', '_', layer)}{number}.png"
            picture = nine_patches(blocks, title=layer, subtitle=subtitle, top=top)
            with writable(out):
                write_whole(os.fsencode(out / name), encode(picture, name))
            made.setdefault(layer, []).append(name)
    return made


def discard_sheets(out: Path) -> None:
    """Throw away the sheets of an earlier run; a folder that is not ours stays."""
    if (out / SHEETS / MARK).is_file():
        for file in (out / SHEETS).glob("*.png"):
            file.unlink()


def write_page(out: Path, units: Units, found: Found, folder: Path, *, top: int, subtitle: str) -> None:
    """Write ``index.html``: the same as the sheets, each picture with its file and activation."""
    base = as_url(os.path.relpath(real_path(folder), real_path(out))) + "/"
    sections = "".join(
        f"<h2>{html.escape(layer)}</h2><div class='units'>{''.join(_units_html(layer, units, found, base, top))}</div>"
        for layer in dict.fromkeys(layer for layer, _ in units)
    )
    side = -(-top // max(1, round(top**0.5)))
    page = _template().replace("<!--SIDE-->", str(side)).replace("<!--SUBTITLE-->", html.escape(subtitle))
    with replacing(out / "index.html") as file:
        file.write(page.replace("<!--UNITS-->", sections))


def _unit(key: UnitKey, images: Sequence[Excited], found: Found) -> dict[str, Any]:
    return {
        "layer": key[0],
        "channel": key[1],
        "images": [
            {
                "rank": rank,
                "path": as_text(image.path),
                "path_base64": as_base64(image.path),
                "activation": image.activation,
                "position_yx": image.position_yx,
                "box_xyxy": image.box_xyxy,
                **found.get((key, image.path), Pattern())._asdict(),
            }
            for rank, image in enumerate(images, start=1)
        ],
    }


def _block(out: Path, key: UnitKey, images: Sequence[Excited], found: Found) -> Block:
    pictures = []
    for image in images:
        pattern = found.get((key, image.path), Pattern())
        pictures.append((_opened(out, pattern.pattern), _opened(out, pattern.patch)))
    return Block(f"channel {key[1]}", _range(images), pictures)


def _range(images: Sequence[Excited]) -> str:
    if not images:
        return "no image excites it"
    first, last = f"{images[0].activation:.3g}", f"{images[-1].activation:.3g}"
    return first if first == last else f"{first} to {last}"


def _opened(out: Path, name: str | None) -> Image.Image | None:
    if name is None or not (out / name).is_file():
        return None
    return decode((out / name).read_bytes())


def _units_html(layer: str, units: Units, found: Found, base: str, top: int) -> Iterator[str]:
    for key, images in units.items():
        if key[0] != layer:
            continue
        pairs = [(image, found.get((key, image.path), Pattern())) for image in images]
        grids = "".join(
            "<div class='grid'>" + "".join(_cell(image, name, base) for image, name in half) + "</div>"
            for half in (
                [(image, pattern.pattern) for image, pattern in pairs],
                [(image, pattern.patch) for image, pattern in pairs],
            )
        )
        yield (
            f"<section><h3>channel {key[1]} <span>{html.escape(_range(images))}</span></h3>"
            f"<div class='pair'>{grids}</div></section>"
        )


def _cell(image: Excited, name: str | None, base: str) -> str:
    told = html.escape(f"{as_text(image.path)}: {image.activation:.4g}", quote=True)
    shown = f"<img loading='lazy' src='{as_url(name.encode())}' alt=''>" if name else ""
    return f"<a href='{base}{as_url(image.path)}' title='{told}'>{shown}</a>"


@cache
def _template() -> str:
    return files("visionpipe.features").joinpath("page.html").read_text(encoding="utf-8")
