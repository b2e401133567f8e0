"""The audit: pictures in, the methods' figures, files and strips out."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.attribution import Settings
from models.auditing import audit as auditing
from models.auditing.audit import audit
from models.auditing.measuring import AuditOptions
from models.auditing.subject import Subject
from models.auditing.summary import Spread
from models.catalog import Catalog
from models.cli import app
from models.errors import UnsupportedOption
from models.recipes import stn_canvases

CANVASES = stn_canvases.examples(3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of three readable pictures, one of them deeper, and what cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    (folder / ".hidden").mkdir()
    for number, levels in enumerate(CANVASES.levels()):
        Image.fromarray(levels).save(folder / ("more" if number == 2 else "") / f"[{number}] canvas.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / ".hidden" / "notes.txt").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def subject():
    return Subject.open(Catalog().find("vgg-digits"), "cpu")


@pytest.fixture(scope="module")
def everything(subject, pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("audit") / "deep"
    options = AuditOptions(
        ("integrated_gradients", "guided_backprop"), curves=True, max_depths=4, curve_points=11, settings=Settings()
    )
    return audit(subject, [pictures], options, output=output)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_readable_picture_is_audited_and_the_others_are_listed(everything, pictures):
    names = [str(pictures / name) for name in ("[0] canvas.png", "[1] canvas.png", "more/[2] canvas.png")]
    assert [one.image for one in everything.figures] == [name for name in names for _ in range(2)]
    assert [(one.path.name, one.reason[:24]) for one in everything.skipped] == [
        ("broken.png", "Expected a whole PNG pic")
    ]


def test_each_method_has_its_figures_over_all_pictures(everything):
    gradients, guided = everything.summaries
    assert (gradients.method, gradients.judgement.verdict, gradients.verdicts) == (
        "integrated_gradients",
        "passes",
        (3, 0, 0),
    )
    assert (guided.method, guided.judgement.verdict, guided.verdicts) == ("guided_backprop", "fails", (0, 0, 3))
    assert "mean of 3 images" in guided.judgement.reason
    assert gradients.completeness_error.mean <= 0.01
    assert guided.completeness_error is None
    for summary in everything.summaries:
        of = [one for one in everything.figures if one.method == summary.method]
        assert summary.num_images == 3
        assert summary.insertion_auc.mean == pytest.approx(np.mean([one.insertion_auc for one in of]))
        assert summary.correlation == Spread.of([one.depths[-1][2] for one in of])
        assert summary.insertion_auc.mean > summary.deletion_auc.mean


def test_the_files_say_the_same(everything):
    output = everything.output
    methods, images, depths = (rows(output / f"{name}.csv") for name in ("methods", "images", "depths"))
    assert [row["verdict"] for row in methods] == ["passes", "fails"]
    assert float(methods[1]["correlation"]) == pytest.approx(everything.summaries[1].correlation.mean)
    assert [row["image"] for row in images] == [one.image for one in everything.figures]
    assert float(images[0]["deletion_auc"]) == pytest.approx(everything.figures[0].deletion_auc)
    assert len(depths) == 3 * 2 * 4
    assert [row["layer"] for row in depths[:4]] == [depth[0] for depth in everything.figures[0].depths]


def test_each_picture_has_a_strip_with_a_row_per_method(everything):
    strips = sorted((everything.output / "strips").iterdir())
    assert [path.name for path in strips] == ["01-_0_canvas.png", "02-_1_canvas.png", "03-_2_canvas.png"]
    assert everything.files[3:] == strips
    with Image.open(strips[0]) as strip:
        assert strip.width > 6 * 104
        assert 2 * 104 < strip.height < 4 * 104


def test_strips_end_after_the_first_pictures(subject, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(auditing, "MAX_STRIPS", 1)
    made = audit(subject, [pictures], AuditOptions(("saliency",), max_depths=1), output=tmp_path)
    assert len(list((tmp_path / "strips").iterdir())) == 1
    assert made.num_images == 3


def test_a_method_that_the_network_cannot_do_is_told_with_its_reason(subject, pictures):
    settings = Settings(layer="classifier.fc1")
    made = audit(subject, [pictures], AuditOptions(("grad_cam", "saliency"), max_depths=1, settings=settings))
    assert "feature map" in made.summaries[0].fault
    assert made.summaries[0].num_images == 0
    assert made.summaries[1].num_images == 3


def test_the_class_may_be_chosen(subject, pictures):
    options = AuditOptions(("saliency",), target=subject.class_id("7"), sanity=False)
    (figures,) = audit(subject, [pictures / "[0] canvas.png"], options).figures
    assert figures.target == 7
    assert figures.score < 0.5
    assert figures.verdict is None


@pytest.mark.parametrize("target", ["10", "seven", "-1"])
def test_a_class_that_is_not_there_is_refused(subject, target):
    with pytest.raises(UnsupportedOption, match="from 0 to 9"):
        subject.class_id(target)


def test_without_a_readable_picture_there_is_no_audit(subject, pictures, tmp_path):
    for path, says in (
        (pictures / "broken.png", "broken.png"),
        (tmp_path, "an empty folder"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(UnsupportedOption, match=says):
            audit(subject, [path], AuditOptions())


def test_models_that_do_not_classify_are_refused():
    with pytest.raises(UnsupportedOption, match="does segmentation"):
        Subject.open(Catalog().find("unet-cells"))


def test_progress_is_told_to_the_end(subject, pictures):
    told = []
    audit(subject, [pictures], AuditOptions(("saliency",), max_depths=1), report=lambda *step: told.append(step))
    assert told[0] == (0, 4)
    assert told[-1] == (4, 4)
    assert told == sorted(told)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: CliRunner().invoke(app, ["audit", *map(str, words), "--device", "cpu"])


def test_the_command_prints_a_table_the_verdicts_and_the_files(run, pictures, tmp_path):
    done = run("vgg-digits", pictures, "--methods", "saliency, guided_backprop", "--max-depths", 3, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    for part in (
        "3 pictures; similarities are those with all layers random",
        "saliency: The map changes with what the network has learnt. Over 3 depths",
        "guided_backprop: The map stays alike while the network forgets",
        f"In {tmp_path}: methods.csv, images.csv, depths.csv and 3 strips",
    ):
        assert part in done.stdout.replace("\n", " "), part
    assert "Left out 1 file:" in done.stderr
    assert "broken.png: Expected a whole PNG" in done.stderr


def test_the_command_speaks_json(run, pictures):
    done = run("vgg-digits", pictures, "--methods", "grad_cam", "--no-sanity", "--curves", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (method,) = told["methods"]
    assert told["num_images"] == 3
    assert method["verdict"] is None
    assert 0 <= method["deletion_auc"]["mean"] < method["insertion_auc"]["mean"] <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "saliency,magic"], "Expected methods among saliency"),
        (["--no-sanity"], "leaves nothing"),
        (["--target", "eleven"], "Expected a class of vgg-digits"),
        (["--device", "cuda:77"], "Expected a device of this machine (auto, cpu, cuda:N), got 'cuda:77'"),
    ],
)
def test_the_command_says_what_is_wrong(run, pictures, words, says):
    done = (
        run("vgg-digits", pictures, *words)
        if "--device" not in words
        else CliRunner().invoke(app, ["audit", "vgg-digits", str(pictures), *words])
    )
    assert done.exit_code == 1
    assert says in done.stderr.replace("\n", " ")
