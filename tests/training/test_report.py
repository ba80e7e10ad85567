"""`report.html` of a run directory whose files are written here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from model.errors import DataError
from tests.training import tiny
from tests.training.photos import write_photo
from training import cli
from training.reporting import mistakes as mistakes_section
from training.reporting.charts import Line, Mark, curve_chart, line_chart
from training.reporting.class_charts import Bar, bar_chart, cloud_chart, heat_map
from training.reporting.report import method_title, report, write_report
from training.reporting.verdict import verdict
from training.runs.contents import SCHEMA

HOSTILE = '<b>zebra</b> & "co" \'<script>alert(1)</script>'
SCORES = {
    "lda": {"U": 0.6111, "S": 0.7222, "H": 0.6634, "T1": 0.7775, "AUSUC": 0.5826, "ece": 0.0456},
    "student": {"U": 0.4147, "S": 0.3258, "H": 0.3649, "T1": 0.6461, "AUSUC": 0.2192, "ece": 0.1567},
    "softmax": {"U": 0.2147, "S": 0.8258, "H": 0.3408, "T1": 0.6161, "AUSUC": 0.3192, "ece": 0.2567},
}


class Page(HTMLParser):
    """Checks that tags are closed in order; keeps the text by tag, and tags with their attributes."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":  # the only one here that has no end
            self.open.append(tag)
            if tag in ("td", "th"):
                self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def charts(self) -> list[str]:
        return [fields["aria-label"] or "" for tag, fields in self.tags if tag == "svg"]

    def count(self, tag: str, *styles: str) -> int:
        return sum(
            name == tag and set(styles) <= set((fields.get("class") or "").split()) for name, fields in self.tags
        )


def resolved(**selected: Any) -> dict[str, Any]:
    candidates = [
        {"epochs": epochs, "head": head, "seen_penalty": 1.0, "H": h}
        for epochs, head, h in [(2, "lda/0.3", 0.5), (4, "lda/0.3", 0.55), (2, "lda/0.7", 0.6), (4, "lda/0.7", 0.58)]
    ]
    candidates += [{"epochs": e, "head": "student", "seen_penalty": 1.0, "H": 0.3} for e in (2, 4)]
    return {
        "schema": SCHEMA,
        "code_version": "0.1.0",
        "data": {"kind": "features", "path": f"/photos/{HOSTILE.replace('/', '')}", "commit": None},
        "config": tiny.config("epochs=4").to_json(),
        "selected": {
            "epochs": 2,
            "scaling": "range",
            "head": {
                "kind": "lda",
                "shrinkage": 0.7,
                "unseen_scale": 1.0,
                "seen_penalty": 1.25,
                "temperature": 13.5,
            },
            "student": {"seen_penalty": 0.5, "temperature": 0.125},
            "novelty": "relative_mahalanobis",
            "validation": {
                "protocol": "validation: pseudo-unseen <classes>",
                "folds": 2,
                "seed": 0,
                "H": 0.6006,
                "H_student": 0.3003,
                "novelty": {
                    "teacher": {"auroc": 0.5118, "error": 0.0229},
                    "relative_mahalanobis": {"auroc": 0.8118, "error": None},
                },
                "candidates": candidates,
                "scaling": {},
            },
            **selected,
        },
    }


def metrics() -> dict[str, Any]:
    accuracies = {HOSTILE: 0.4321, "cat": 0.8765, "dog": 0.5432}
    return {
        "protocol": {
            "name": "validation",
            "selection": "validation: pseudo-unseen <classes>",
            "test_used_for_selection": False,
            "metric": "mean per-class top-1",
            "split": {
                "rule": "made up & small",
                "notes": ["leaks 3 rows", "so what"],
                "empty": [],
                "leak": {"train_loc": 7, "of_val": False},
            },
            "seed": 3,
            "data_hash": "d" * 64,
            "config_hash": "c" * 32,
            "commit": None,
            "classes": {"seen": 2, "unseen": 1},
            "rows": {"trainval": 70, "test_seen": 31, "test_unseen": 17},
        },
        "unseen_classes": [HOSTILE],
        "novelty": {
            "score": "relative_mahalanobis",
            "auroc": 0.9137,
            "aurocs": {"teacher": 0.6137, "relative_mahalanobis": 0.9137},
            "seen_rows": 31,
            "unseen_rows": 17,
        },
        **{head: {**scores, "ece_balanced": 0.0345, "per_class": accuracies} for head, scores in SCORES.items()},
    }


def curves() -> dict[str, Any]:
    curve = {"U": [0.0, 0.3, 0.7], "S": [0.8, 0.6, 0.0]}
    point = {"U": 0.3, "S": 0.6, "H": 0.4}
    trade_off = {**curve, "chosen": point, "best": {"U": 0.5, "S": 0.5, "H": 0.5}}
    rows = [[0.5, 1.0], [1.5, -1.0]]
    return {
        "trade_off": {"lda": trade_off, "student": trade_off},
        "teacher_scores": {
            "edges": [-3.0, -2.0, -1.0],
            "shares": {"test_seen": [0.25, 0.75], "synthetic_unseen": [1.0, 0.0], "test_unseen": [0.5, 0.5]},
        },
        # The mole has no test rows; of four zebras two are taken for zebras, one for a mole, one for a seen class.
        "confusion": {"classes": ["mole", HOSTILE, "yak"], "counts": [[1, 0, 1], [1, 1, 2], [1, 3, 1], [2, 2, 5]]},
        "plane": {
            "variance_shares": [0.412, 0.131],
            "classes": [
                {"id": HOSTILE, "real": rows, "synthetic": [[0.0, 0.0]]},
                {"id": "yak", "real": rows[:1], "synthetic": rows},
            ],
        },
    }


def log(shares: tuple[dict[str, float], ...] = ({"cls": 1, "kl": 0.5}, {"cls": 1, "kl": 0.25})) -> list[dict[str, Any]]:
    final = [
        {"seconds": 60.0 + e, "stage": "final", "epoch": e, "losses": {"cls": 2.0 / e, "kl": 0.5}}
        | ({"gradient_shares": share} if share else {})
        for e, share in enumerate(shares, start=1)
    ]
    return [{"seconds": 1.0, "stage": "selection", "fold": 0, "epoch": 1, "losses": {"cls": 99.0}}, *final]


def write(
    folder: Path,
    config: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or resolved()))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines or log()))
    if results is not None:
        (folder / "metrics.json").write_text(json.dumps(results))
        (folder / "curves.json").write_text(json.dumps(curves()))
    return folder


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run as it is written here, drawn once."""
    return report(write(tmp_path_factory.mktemp("report") / "run", results=metrics()))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", results=metrics())


def test_every_number_and_the_protocol(document: str) -> None:
    page = Page(document)
    names = ("lda on E_s (served)", "C_s (the paper's student)", "softmax on synthesised features")
    for name, scores, chosen in zip(names, SCORES.values(), ("0.601", "0.300", "–"), strict=True):
        at = page.cells.index(name)
        assert page.cells[at + 1 : at + 8] == [*(f"{value:.3f}" for value in scores.values()), chosen]
    assert page.cells[:7] == ["head", "U", "S", "H", "T1", "AUSUC", "ECE"]
    for said in (
        "0.914",
        "0.601",
        "0.300",
        "0.812",
        "31 of 2 seen, 17 of 1 unseen",
        "made up & small",
        "leaks 3 rows; so what",
        "train_loc 7, of_val no",
    ):
        assert said in page.text
    assert "validation: pseudo-unseen <classes>" in page.text
    assert "test images used for selectionno" in page.text


def test_nothing_from_elsewhere_and_no_script(document: str) -> None:
    page = Page(document)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "b"}
    assert not [name for _, fields in page.tags for name in fields if name == "src" or name.startswith("on")]
    own = {fields["id"] for _, fields in page.tags if "id" in fields}
    assert len(own) == sum("id" in fields for _, fields in page.tags)
    links = [fields["href"] or "" for _, fields in page.tags if "href" in fields]
    links += re.findall(r"url\(([^)]*)\)", document)
    assert links
    assert {link.removeprefix("#") for link in links} <= own
    assert all(link.startswith("#") for link in links)
    assert "://" not in document
    assert "@import" not in document


def test_names_are_escaped_wherever_they_stand(document: str) -> None:
    assert "<b>" not in document
    assert "<script" not in document
    page = Page(document)
    assert f"{HOSTILE}: 0.432, C_s 0.432" in page.text  # the bar's own title
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert "wgan + D3: <b>zebra" in page.text


def test_bars_by_kind(document: str) -> None:
    page = Page(document)
    assert (page.count("g", "bar", "unseen"), page.count("g", "bar", "seen")) == (1, 2)
    assert page.text.index("Unseen classes") < page.text.index(HOSTILE[:23], page.text.index("Unseen classes"))
    assert page.text.index("dog: 0.543") < page.text.index("cat: 0.876")  # worst first


def test_without_test_results(tmp_path: Path) -> None:
    page = Page(report(write(tmp_path / "run")))
    assert "There are no test results: this run has no metrics.json." in page.text
    assert "H 0.601" in page.text
    assert "AUSUC" not in page.text
    assert "Accuracy per class" not in page.text


def test_what_validation_chose(run: Path, document: str) -> None:
    page = Page(document)
    for said in ("2 of at most 4 epochs", "served headlda/0.7", "1.25, 13.5", "0.5, 0.125"):
        assert said in page.text
    for point in ("lda/0.7 2: 0.6", "lda/0.7 4: 0.58", "lda/0.3 4: 0.55", "C_s 4: 0.3"):
        assert point in page.text
    assert "a longer one may do better" not in page.text
    assert "a longer one may do better" in report(write(run, resolved(epochs=4)))


def test_losses_are_those_of_the_final_training(document: str) -> None:
    page = Page(document)
    assert [c for c in page.charts() if c.startswith("L_")] == ["L_cls, classification", "L_kl, label distillation"]
    assert " 2: 1" in page.text
    assert "99" not in page.text


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (0.5, 0.01, ""),
        (0.5, 0.0099, "below 1% at 1 of 2 measured epochs"),
        (0.0099, 0.0, "below 1% of L_cls throughout: the term is inert"),
    ],
)
def test_inert_terms(tmp_path: Path, first: float, last: float, said: str) -> None:
    lines = log(({"cls": 1, "kl": first}, {}, {"cls": 1, "kl": last}))
    page = Page(report(write(tmp_path / "run", lines=lines)))
    at = page.cells.index("L_kl, label distillation")
    assert page.cells[at + 1 : at + 6] == ["1", f"{first:.4g}", f"{min(first, last):.4g}", f"{last:.4g}", said]


def test_without_gradients(tmp_path: Path) -> None:
    assert "Not measured: " in report(write(tmp_path / "run", lines=log(({}, {}))))


def test_all_settings_are_folded_away(document: str) -> None:
    page = Page(document)
    assert ("details", {}) in page.tags
    for name, value in (("generator.hidden", "8"), ("selection.shrinkage", "[0.3, 0.7]"), ("data.commit", "null")):
        assert page.cells[page.cells.index(name) + 1] == value


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json: no such file"),
        ("config.json", '{"schema": "other"}', f"config.json: expected schema '{SCHEMA}', found 'other'"),
        (
            "config.json",
            json.dumps({"schema": SCHEMA}),
            "lacks what a report needs or has another form: KeyError: 'data'",
        ),
        ("metrics.json", '{"lda": {}}', "lacks what a report needs"),
        ("metrics.json", "{", "metrics.json: cannot be read"),
        ("curves.json", '{"trade_off": {}}', "lacks what a report needs"),
        ("curves.json", "[]", "curves.json: expected a JSON object"),
        ("log.jsonl", None, "log.jsonl: no such file"),
        ("log.jsonl", '{"stage": "selected"}\n{"stage"', "log.jsonl line 2: expected a JSON object"),
        ("log.jsonl", "[]\n", "log.jsonl line 1: expected a JSON object with a field 'stage'"),
    ],
)
def test_damaged_runs_are_named(run: Path, file: str, content: str | None, message: str) -> None:
    (run / file).unlink() if content is None else (run / file).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        write_report(run)
    assert not list(run.glob("report.html*"))


def test_command(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").write_text("an older one")
    monkeypatch.setattr(sys, "argv", ["d3gzsl-train", "report", str(run), "--json"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out) == {"out": str(run / "report.html")}
    assert (run / "report.html").read_text(encoding="utf-8") == report(run)
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json",
        "curves.json",
        "log.jsonl",
        "metrics.json",
        "report.html",
    ]


def test_fit_and_evaluate_write_it(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for arguments in (["fit", str(store_dir), "--out", str(out), *tiny.TINY], ["evaluate", str(out)]):
        monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
        page = Page((out / "report.html").read_text(encoding="utf-8"))
        found = json.loads((out / "metrics.json").read_text())
        at = page.cells.index("lda on E_s (served)")
        assert page.cells[at + 3] == f"{found['lda']['H']:.3f}"
        assert (page.count("g", "bar", "unseen"), page.count("g", "bar", "seen")) == (2, 6)
        assert {"Trade-off", "Teacher's score e", "What unseen classes are taken for"} <= set(page.charts())
        assert {"violet", "lime"} <= set(page.charts())
        (out / "report.html").unlink()


# --- what curves.json holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "weights", "title"),
    [
        ("wgan", (1, 1, 1), "wgan + D3"),
        ("cegzsl", (1, 0.5, 1), "cegzsl + D3"),
        ("diffusion", (0, 0, 0), "diffusion without D3"),
        ("tfvaegan", (0, 0, 1), "tfvaegan + D3 without ID2SD"),
        ("wgan", (1, 1, 0), "wgan + D3 without O2DBD"),
        ("wgan", (0, 1, 0), "wgan + D3 without L_kl and O2DBD"),
    ],
)
def test_the_title_names_the_method(
    tmp_path: Path, method: str, weights: tuple[float, float, float], title: str
) -> None:
    config = resolved()
    config["config"]["generator"]["method"] = method
    names = ("label_distillation", "embedding_distillation", "ood_distillation")
    config["config"]["d3"] |= dict(zip(names, weights, strict=True))
    assert method_title(config["config"]) == title
    assert f"<h1>{title}: " in report(write(tmp_path / "run", config))


def test_without_curves(run: Path) -> None:
    (run / "curves.json").unlink()
    page = Page(report(run))
    assert "this run has no curves.json" in page.text
    assert "Trade-off" not in page.charts()
    assert "U, S and H over training" not in page.text


def test_a_selection_by_test_images_is_said_aloud(tmp_path: Path) -> None:
    quiet = Page(report(write(tmp_path / "quiet", results=metrics())))
    assert quiet.count("p", "loud") == 0
    assert "protocolvalidation" in quiet.text
    assert "What validation chose" in quiet.text
    results = metrics()
    results["protocol"] |= {"name": "test-best", "selection": "test-best: H", "test_used_for_selection": True}
    config = resolved()
    config["selected"]["validation"]["protocol"] = "test-best: H"
    lines = [line | {"test": {"lda": {"U": 0.1, "S": 0.2, "H": 0.15}}} for line in log()]
    loud = Page(report(write(tmp_path / "loud", config, results, lines)))
    assert loud.count("p", "loud") == 1
    for said in (
        "Test images were used for selection",
        "protocoltest-best",
        "used for selectionYES",
        "What the test images chose",
        "Test images chose the length of training",
    ):
        assert said in loud.text
    assert "pseudo-H" not in loud.text
    for said in ("nothing was selected", "never used for it"):
        assert said not in loud.text
    assert "never used for it" in quiet.text


@pytest.mark.parametrize("folds", [1, 6, 7])
def test_scores_over_training(run: Path, folds: int) -> None:
    scores = {"U": 0.125, "S": 0.5, "H": 0.2}
    lines = log()
    lines[-1]["test"] = {"lda": scores, "student": scores | {"H": 0.375}}
    lines += [
        {"seconds": 1.0, "stage": "selection", "fold": fold, "epoch": epoch, "losses": {}, "validation": scores}
        for fold in range(folds)
        for epoch in (2, 4)
    ]
    page = Page(report(write(run, lines=lines)))
    assert "Monitoring only, nothing was selected by it." in page.text
    assert [c for c in page.charts() if c.startswith("Test images")] == [
        "Test images, lda head",
        "Test images, C_s",
    ]
    assert [c for c in page.charts() if c.startswith("Validation")] == [
        f"Validation, fold {fold + 1}" for fold in range(folds)
    ]
    assert ("Validation: all 7 folds" in page.text) == (folds == 7)
    for point in ("U 2: 0.125", "H 2: 0.375", "S 4: 0.5"):
        assert point in page.text


def test_what_curves_hold_is_drawn(document: str) -> None:
    page = Page(document)
    for chart in ("Trade-off", "Teacher's score e", "What unseen classes are taken for", HOSTILE, "yak"):
        assert chart in page.charts()
    for said in (
        "chosen, H 0.400",
        "largest, H 0.500",
        "41% and 13% of their variance",
        f"{HOSTILE} taken for mole: 25.0%",
        f"{HOSTILE} taken for {HOSTILE}: 50.0%",
        f"{HOSTILE} taken for a seen class: 25.0%",
        "yak taken for yak: 100.0%",
        "the last column: 12.5% on average",
    ):
        assert said in page.text, said
    at = page.cells.index("taken for")
    assert page.cells[at + 2 : at + 8] == [HOSTILE, "a seen class", "25.0%", HOSTILE, "mole", "25.0%"]


@pytest.mark.parametrize("count", [40, 41, 300])
def test_long_lists_are_folded(run: Path, count: int) -> None:
    results = metrics()
    accuracies = {f"class-{i}": i / count for i in range(count)}
    results["unseen_classes"] = list(accuracies)
    for head in SCORES:
        results[head]["per_class"] = accuracies
    counts = [[i, (i + 1) % (count + 1), 3] for i in range(count)]
    drawn = curves()
    drawn["confusion"] = {"classes": list(accuracies), "counts": counts}
    (run / "metrics.json").write_text(json.dumps(results))
    (run / "curves.json").write_text(json.dumps(drawn))
    page = Page(report(run))
    assert page.count("g", "bar", "unseen") == (count if count == 40 else 20 + count)
    assert (f"Unseen classes: the 20 worst of {count}" in page.charts()) == (count > 40)
    (heat,) = (f for tag, f in page.tags if tag == "svg" and f["aria-label"] == "What unseen classes are taken for")
    assert float(heat["width"] or 0) <= 1040
    assert page.count("g", "heat") == count


# --- charts -----------------------------------------------------------------------------------------------------------


Places = list[tuple[float, float]]


def drawn(chart: str, kind: str) -> list[tuple[str, Places]]:
    """What every mark of a kind says, and the places of its path."""
    Page(chart)
    found = re.findall(rf'<g class="{kind}">\s*<title>(.*?)</title>\s*<path d="([^"]+)"', chart, re.DOTALL)
    return [(said, [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]) for said, path in found]


def texts(chart: str) -> list[tuple[str, float]]:
    """Every text with its height on the page."""
    found = re.findall(r'<text[^>]*?(?: y="([-\d.]+)"|translate\([-\d.]+ ([-\d.]+)\))[^>]*>([^<]*)</text>', chart)
    return [(said, float(one or other)) for one, other, said in found]


@pytest.mark.parametrize("log_axis", [False, True])
def test_lines_lie_where_their_values_are(log_axis: bool) -> None:
    values = [(1.0, 0.001), (2.0, 0.1), (4.0, 10.0)]
    chart = line_chart("t", [Line(label="a", points=values)], x_label="x", y_label="y", log=log_axis)
    ((said, ((x1, y1), (x2, y2), (x3, y3))),) = drawn(chart, "line")
    assert said.splitlines() == ["a 1: 0.001", "a 2: 0.1", "a 4: 10"]
    assert (x2 - x1) / (x3 - x1) == pytest.approx(1 / 3, abs=0.01)
    height = math.log10(0.1 / 0.001) / math.log10(10 / 0.001) if log_axis else 0.0099
    assert (y1 - y2) / (y1 - y3) == pytest.approx(height, abs=0.01)


def test_values_that_cannot_be_drawn() -> None:
    points = [(1.0, math.nan), (2.0, 0.5), (3.0, math.inf), (4.0, 0.25)]
    chart = line_chart("t", [Line(label="", points=points)], x_label="x", y_label="y")
    assert len(drawn(chart, "line")[0][1]) == 2
    assert "nan" not in chart
    assert "inf" not in chart
    assert "no finite value" in line_chart("t", [Line(label="", points=points[:1])], x_label="x", y_label="y")
    zero = line_chart("t", [Line(label="", points=[(1, 0.0), (2, 0.5)])], x_label="x", y_label="y", log=True)
    ((_, ((_, bottom), (_, above))),) = drawn(zero, "line")
    assert bottom > above


def test_one_point_and_equal_values() -> None:
    for points in ([(1.0, 0.0)], [(1.0, 2.5), (2.0, 2.5)]):
        chart = line_chart("t", [Line(label="a", points=points)], x_label="x", y_label="y")
        assert "nan" not in chart
        epochs = [said for said, _ in texts(chart) if re.fullmatch(r"\d+", said)]
        assert epochs == [f"{x:.0f}" for x, _ in points]  # whole numbers only


def test_labels_at_the_ends_do_not_overlap() -> None:
    lines = [Line(label=f"line {i}", points=[(1, 0.5), (2, 0.5 + i / 1000)]) for i in range(4)]
    lines.append(Line(label="far", points=[(1, 0.0), (2, 0.0)]))
    chart = line_chart("t", lines, x_label="x", y_label="y")
    places = sorted(y for said, y in texts(chart) if said.startswith(("line ", "far")))
    assert len(places) == 5
    assert min(b - a for a, b in pairwise(places)) >= 13


def test_what_looks_like_mathematics_or_markup_stays_as_it_is() -> None:
    lines = [Line(label=label, points=[(1, 0.5)]) for label in ("$\\alpha$ & co", 'a id="b" #100000 0.12345')]
    chart = line_chart("$x^2$", lines, x_label="x", y_label="y")
    said = [text for text, _ in texts(chart)]
    assert 'a id="b" #100000 0.12345' in said
    assert "$x^2$" in said
    assert "$\\alpha$ &amp; co" in said


def test_the_same_values_give_the_same_bytes_whatever_settings_a_user_has(drawn_anew: None) -> None:
    charts = []
    for size in (10, 20):
        with matplotlib.rc_context({"xtick.labelsize": size, "axes.facecolor": "red"}):
            charts.append(line_chart("t", [Line(label="a", points=[(1, 0.5)])], x_label="x", y_label="y"))
            assert matplotlib.rcParams["xtick.labelsize"] == size
    assert charts[0] == charts[1]
    assert "<style" not in charts[0]  # would hold for the whole page


def test_long_titles_fit() -> None:
    title = "a class with a name that no chart can show"
    chart = cloud_chart(title, behind=[], real=[[1, 1]], synthetic=[], x_range=(0, 2), y_range=(0, 2), width=235)
    ((shown, _),) = [(said, y) for said, y in texts(chart) if said.startswith("a class")]
    assert title.startswith(shown.removesuffix("…"))
    assert 20 < len(shown) <= 235 / 8
    assert f"<title>{title}</title>" in chart


def test_a_chart_holds_nothing_that_draws_nothing() -> None:
    points = [[x / 7, x / 9] for x in range(100)]
    chart = cloud_chart("t", behind=points, real=[], synthetic=[], x_range=(0, 15), y_range=(0, 12))
    assert "<g>" not in chart
    assert 'style="fill: none"' not in chart
    assert "font-family" not in chart  # the page's
    (path,) = re.findall(r'<title>behind: 100 rows</title><path d="([^"]+)"', chart)
    assert len(drawn(chart, "behind")[0][1]) == 100
    assert len(path) <= 100 * len("M123.4 123.4h0")


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart("t", [Bar(label="a", value=0.25), Bar(label="b", value=1.0, other=0.5)], kind="seen", mean=0.5)
    bars = drawn(chart, "bar seen")
    assert [said for said, _ in bars] == ["a: 0.250", "b: 1.000, C_s 0.500"]
    short, full = (max(x for x, _ in places) - min(x for x, _ in places) for _, places in bars)
    assert short / full == pytest.approx(0.25, abs=0.002)
    assert [said for said, _ in texts(chart) if said in "ab"] == ["a", "b"]
    (stroke,) = re.findall(r"<path [^>]*stroke-width: 2.5[^>]*>", chart)
    assert "clip-path" not in stroke  # at 0 and at 1 half of it would be cut


def test_curves_and_marks_lie_where_their_values_are() -> None:
    points = [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0)]
    lines = [Line(label="a", points=points), Line(label="b", points=points, strong=True)]
    mark = Mark(label="m", title="it", x=0.5, y=0.5, line=1, filled=True)
    chart = curve_chart("t", lines, x_range=(0, 1), y_range=(0, 1), x_label="x", y_label="y", marks=[mark])
    curves = drawn(chart, "line")
    assert [said for said, _ in curves] == ["a", "b"]
    (x1, y1), (x2, y2), (x3, y3) = curves[0][1]
    assert ((x2 - x1) / (x3 - x1), y2) == (pytest.approx(0.5, abs=0.01), y1)
    (place,) = re.findall(r'<title>it: 0.5, 0.5</title>.*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', chart, re.DOTALL)
    assert [float(v) for v in place] == pytest.approx([x2, (y1 + y3) / 2], abs=0.1)
    assert [said for said, _ in texts(chart) if said in ("a", "b", "m")] == ["a", "b", "m"]  # the legend


def test_clouds() -> None:
    chart = cloud_chart(
        "t", behind=[], real=[[0.0, 0.0], [2.0, 2.0]], synthetic=[[1.0, 1.0]], x_range=(0, 2), y_range=(0, 2)
    )
    ((said, ((x1, y1), (x2, y2))),) = drawn(chart, "real")  # one place a row
    assert said == "real: 2 rows"
    assert x1 < x2
    assert y1 > y2
    ((_, cross),) = drawn(chart, "synthetic")
    assert len(cross) == 4
    middle = [sum(place[axis] for place in cross) / 4 for axis in (0, 1)]
    assert middle == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2], abs=0.11)
    assert max(x for x, _ in cross) - min(x for x, _ in cross) == pytest.approx(5.2, abs=0.1)
    assert drawn(chart, "behind") == []


def test_heat_map() -> None:
    shares = {(0, 0): 0.75, (0, 2): 0.25, (1, 1): 1.0}
    chart = heat_map("t", ["a", "b"], ["a", "b", "c"], shares, x_label="x", y_label="y")
    cells = drawn(chart, "heat")
    assert [said for said, _ in cells] == ["a taken for a: 75.0%", "a taken for c: 25.0%", "b taken for b: 100.0%"]
    assert re.findall(r"opacity: ([\d.]+)", chart)[:2] == ["0.75", "0.25"]
    corners = [(min(x for x, _ in places), min(y for _, y in places)) for _, places in cells]
    (x0, y0), (x2, _), (x1, y1) = corners
    side = max(x for x, _ in cells[0][1]) - x0
    assert (x1 - x0, x2 - x0, y1 - y0) == pytest.approx((side, 2 * side, side), abs=0.11)
    assert [int(said) for said, _ in texts(chart) if said.isdigit()] == [75, 25, 100]


# --- verdict, words, photos -------------------------------------------------------------------------------------------


def test_the_verdict_comes_first(document: str) -> None:
    page = Page(document)
    assert page.text.index("Of 100 photos of classes it never saw, 61 are named right") < page.text.index("AUSUC")
    assert "of 100 photos of classes it was trained on, 72 are. Guessing among the 3 classes would name 33" in page.text
    assert "tried on 17 photos of 1 unseen classes and on 31 of 2 seen ones" in page.text
    assert "So few photos say little" in page.text


def test_what_the_verdict_says() -> None:
    def said(u: float, s: float, **protocol: Any) -> str:
        found = metrics()
        found["lda"] |= {"U": u, "S": s, "per_class": {HOSTILE: 0.001, "yak": 0.5, "cat": 0.1}}
        found["unseen_classes"] = [HOSTILE, "yak"]
        found["protocol"] |= {"rows": {"trainval": 900, "test_seen": 400, "test_unseen": 300}, **protocol}
        return " ".join(verdict(found, resolved()))

    good = said(0.8, 0.9)
    assert "80 are named right" in good
    assert f"Hardest of the unseen classes: {HOSTILE} (0.1 of 100), yak (50 of 100)." in good
    for absent in ("hardly better", "leans towards", "too good", "So few photos"):
        assert absent not in good
    assert "It leans towards the classes it was trained on" in said(0.7, 0.96)
    assert "hardly better than guessing" in said(0.3, 0.96)
    assert "These numbers are too good" in said(0.8, 0.9, test_used_for_selection=True)
    assert verdict(None, resolved())[0].startswith("Nothing was tested: there are no test photos of unseen classes")
    benchmark = {**resolved(), "data": {"kind": "benchmark"}}
    assert verdict(metrics(), benchmark)[0].startswith("Of 100 test rows of classes it never saw")


def test_the_words_are_explained(document: str) -> None:
    page = Page(document)
    for word in ("E_s, the student's embedding", "C_s, the student's classifier", "L_be", "L_od", "seen penalty"):
        assert word in page.text
    folded = page.text.index("Teacher, generator, the other losses")
    assert page.text.index("L_beHow far the student's embedding is") < folded < page.text.index("E_o and C_o")


def with_photos(folder: Path, *files: str, wrong: int = 5) -> dict[str, Any]:
    """What `curves.json` says of photos that are named wrong; those of `files` are written."""
    for name in files:
        write_photo(folder / name, seed=1, size=(300, 200))
    shown = [
        {
            "kind": kind,
            "path": name,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest() if name in files else "0" * 64,
            "class": HOSTILE,
            "taken_for": "cat",
            "probability": 0.75,
        }
        for kind, name in (("unseen", "a.png"), ("unseen", "b.jpg"), ("seen", "c.png"))
    ]
    counts = {"wrong": {"unseen": wrong, "seen": 1}, "rows": {"unseen": 17, "seen": 31}}
    return {**curves(), "mistakes": {"root": str(folder), **counts, "shown": shown}}


def test_photos_that_are_named_wrong(run: Path, tmp_path: Path) -> None:
    (run / "curves.json").write_text(json.dumps(with_photos(tmp_path, "a.png", "b.jpg", "c.png")))
    document = report(run)
    page = Page(document)
    pictures = [fields for tag, fields in page.tags if tag == "img"]
    assert [fields["title"] for fields in pictures] == ["a.png", "b.jpg", "c.png"]
    assert pictures[0]["alt"] == f"{HOSTILE}, taken for cat"
    for fields in pictures:
        header, data = str(fields["src"]).split(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (128, 85)
    assert "5 of 17 test photos of unseen classes are taken for another class." in page.text
    assert "1 of 31 test photos of seen classes are taken" in page.text
    assert "not shown" not in page.text
    assert "img-src data:" in document
    assert "<script" not in document


def test_photos_that_are_not_what_they_were_are_only_named(run: Path, tmp_path: Path) -> None:
    found = with_photos(tmp_path, "a.png", "b.jpg")
    (tmp_path / "b.jpg").write_bytes(b"another one")
    (run / "curves.json").write_text(json.dumps(found))
    page = Page(report(run))
    assert [fields["title"] for tag, fields in page.tags if tag == "img"] == ["a.png"]
    assert f"2 photos not shown: no longer under {tmp_path} as in the training" in page.text
    assert {"b.jpg", "c.png"} <= set(page.cells)


def test_the_size_of_the_pictures_is_bounded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_photos(tmp_path, "a.png", "b.jpg", "c.png")
    (run / "curves.json").write_text(json.dumps(found))
    monkeypatch.setattr(mistakes_section, "MOST_BYTES", 3000)
    page = Page(report(run))
    pictures = [base64.b64decode(str(f["src"]).split(",")[1]) for tag, f in page.tags if tag == "img"]
    assert pictures
    assert sum(map(len, pictures)) <= 3000
    assert len(pictures) < 3
    assert "not shown" in page.text
