"""The demo's front page."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from visionpipe.demo.page import SHEET, Shown, write_page


def shown(out: Path, name: str, title: str, number: int) -> Shown:
    """A run of a few pictures with drawings: greys become red."""
    pictures, run = out / "pictures" / name, out / "tasks" / name
    (run / "overlays").mkdir(parents=True)
    pictures.mkdir(parents=True)
    rows = []
    for index in range(number):
        Image.new("L", (40, 30), 128).save(pictures / f"{index}.png")
        Image.new("RGB", (40, 30), (200, 0, 0)).save(run / "overlays" / f"{index}.jpg", quality=95)
        rows.append({"path": f"{index}.png", "overlay": f"overlays/{index}.jpg"})
    rows.append({"path": "broken.png", "overlay": None})
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "index.html").touch()
    return Shown(title, "detection", "some-model", "3 of 4 <right>", pictures, run)


def test_the_page_names_every_run_and_leads_to_it(tmp_path: Path) -> None:
    write_page(tmp_path, [shown(tmp_path, "a", "Digits & more", 3), shown(tmp_path, "b", "Cells", 1)])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for said in ("Digits &amp; more", "3 of 4 &lt;right&gt;", 'href="tasks/a/index.html"', 'href="tasks/b/index.html"'):
        assert said in page
    assert f'src="{SHEET}"' in page


def test_the_contact_sheet_sets_results_beside_inputs(tmp_path: Path) -> None:
    write_page(tmp_path, [shown(tmp_path, "a", "Digits", 4)])
    with Image.open(tmp_path / SHEET) as opened:
        sheet = opened.convert("RGB")
    middle = [sheet.getpixel((x, sheet.height // 2)) for x in range(sheet.width)]
    greys = sum(abs(r - 128) < 12 and abs(g - 128) < 12 and abs(b - 128) < 12 for r, g, b in middle)
    reds = sum(r > 150 and g < 60 and b < 60 for r, g, b in middle)
    assert greys > sheet.width // 4
    assert reds > sheet.width // 4
    assert next(i for i, (r, g, b) in enumerate(middle) if r > 150 and g < 60) > sheet.width // 5
