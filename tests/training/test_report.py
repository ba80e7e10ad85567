"""`report.html` of a run directory whose files are written here."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from tests.training import tiny
from training import cli
from training.reporting.report import method_title, report, write_report
from training.reporting.svg import axis, ticks
from training.reporting.svg_bars import Bar, bar_chart
from training.reporting.svg_heat import heat_map
from training.reporting.svg_lines import Line, line_chart
from training.reporting.svg_plane import Mark, cloud_chart, curve_chart
from training.runs.contents import SCHEMA

HOSTILE = '<b>zebra</b> & "co" \'<script>alert(1)</script>'
SCORES = {
    "lda": {"U": 0.6111, "S": 0.7222, "H": 0.6634, "T1": 0.7775, "AUSUC": 0.5826, "ece": 0.0456},
    "student": {"U": 0.4147, "S": 0.3258, "H": 0.3649, "T1": 0.6461, "AUSUC": 0.2192, "ece": 0.1567},
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

    def count(self, tag: str, style: str) -> int:
        return sum(name == tag and style in (fields.get("class") or "").split() for name, fields in self.tags)


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
            "shrinkage": 0.7,
            "head": {"seen_penalty": 1.25, "temperature": 13.5},
            "student": {"seen_penalty": 0.5, "temperature": 0.125},
            "validation": {
                "protocol": "validation: pseudo-unseen <classes>",
                "folds": 2,
                "seed": 0,
                "H": 0.6006,
                "H_student": 0.3003,
                "novelty_auroc": 0.8118,
                "candidates": candidates,
            },
            **selected,
        },
    }


def metrics() -> dict[str, Any]:
    accuracies = {HOSTILE: 0.4321, "cat": 0.8765, "dog": 0.5432}
    return {
        "protocol": {
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
        "novelty": {"auroc": 0.9137, "seen_rows": 31, "unseen_rows": 17},
        **{head: {**scores, "per_class": accuracies} for head, scores in SCORES.items()},
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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", results=metrics())


def test_every_number_and_the_protocol(run: Path) -> None:
    page = Page(report(run))
    for name, scores in (("lda on E_s (served)", SCORES["lda"]), ("C_s (the paper's student)", SCORES["student"])):
        at = page.cells.index(name)
        assert page.cells[at + 1 : at + 7] == [f"{value:.3f}" for value in scores.values()]
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


def test_nothing_from_elsewhere_and_no_script(run: Path) -> None:
    page = Page(report(run))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "b"}
    assert not [name for _, fields in page.tags for name in fields if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in report(run)
    assert "@import" not in report(run)


def test_names_are_escaped_wherever_they_stand(run: Path) -> None:
    document = report(run)
    assert "<b>" not in document
    assert "<script" not in document
    page = Page(document)
    assert f"{HOSTILE}: 0.432, C_s 0.432" in page.text  # the bar's own title
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert "wgan + D3: <b>zebra" in page.text


def test_bars_by_kind(run: Path) -> None:
    page = Page(report(run))
    assert (page.count("rect", "unseen"), page.count("rect", "seen"), page.count("rect", "unknown")) == (1, 2, 0)
    assert page.text.index("Unseen classes") < page.text.index(HOSTILE[:23], page.text.index("Unseen classes"))
    assert page.text.index("dog: 0.543") < page.text.index("cat: 0.876")  # worst first
    older = metrics()
    del older["unseen_classes"]
    page = Page(report(write(run, results=older)))
    assert (page.count("rect", "unseen"), page.count("rect", "seen"), page.count("rect", "unknown")) == (0, 0, 3)
    assert "does not say which classes are unseen" in page.text


def test_without_test_results(tmp_path: Path) -> None:
    page = Page(report(write(tmp_path / "run")))
    assert "There are no test results: this run has no metrics.json." in page.text
    assert "H 0.601" in page.text
    assert "AUSUC" not in page.text
    assert "Accuracy per class" not in page.text


def test_what_validation_chose(run: Path) -> None:
    page = Page(report(run))
    for said in ("2 of at most 4 epochs", "served headlda/0.7", "1.25, 13.5", "0.5, 0.125"):
        assert said in page.text
    for point in ("lda/0.7 2: 0.6", "lda/0.7 4: 0.58", "lda/0.3 4: 0.55", "C_s 4: 0.3"):
        assert point in page.text
    assert "a longer one may do better" not in page.text
    assert "a longer one may do better" in report(write(run, resolved(epochs=4)))


def test_losses_are_those_of_the_final_training(run: Path) -> None:
    page = Page(report(run))
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


def test_all_settings_are_folded_away(run: Path) -> None:
    page = Page(report(run))
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
    settings = [part for setting in tiny.SETTINGS for part in ("--set", setting)]
    for arguments in (["fit", str(store_dir), "--out", str(out), *settings], ["evaluate", str(out)]):
        monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
        page = Page((out / "report.html").read_text(encoding="utf-8"))
        found = json.loads((out / "metrics.json").read_text())
        at = page.cells.index("lda on E_s (served)")
        assert page.cells[at + 3] == f"{found['lda']['H']:.3f}"
        assert (page.count("rect", "unseen"), page.count("rect", "seen")) == (2, 6)
        assert {"Trade-off", "Teacher's score e", "What unseen classes are taken for"} <= set(page.charts())
        assert {"violet", "lime"} <= set(page.charts())
        (out / "report.html").unlink()


# --- what curves.json holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "weights", "title"),
    [
        (None, (1, 1, 1), "wgan + D3"),
        ("cegzsl", (1, 0.5, 1), "cegzsl + D3"),
        ("diffusion", (0, 0, 0), "diffusion without D3"),
        ("tfvaegan", (0, 0, 1), "tfvaegan + D3 without ID2SD"),
        ("wgan", (1, 1, 0), "wgan + D3 without O2DBD"),
        ("wgan", (0, 1, 0), "wgan + D3 without L_kl and O2DBD"),
    ],
)
def test_the_title_names_the_method(
    tmp_path: Path, method: str | None, weights: tuple[float, float, float], title: str
) -> None:
    config = resolved()
    config["config"]["generator"].pop("method", None)
    if method is not None:
        config["config"]["generator"]["method"] = method
    names = ("label_distillation", "embedding_distillation", "ood_distillation")
    config["config"]["d3"] |= dict(zip(names, weights, strict=True))
    assert method_title(config["config"]) == title
    assert f"<h1>{title}: " in report(write(tmp_path / "run", config, metrics()))


def test_older_runs(run: Path) -> None:
    (run / "curves.json").unlink()
    older = metrics()
    for head in SCORES:
        del older[head]["ece"]
    (run / "metrics.json").write_text(json.dumps(older))
    (run / "config.json").write_text(json.dumps({**resolved(), "schema": "d3gzsl-run/1"}))
    page = Page(report(run))
    at = page.cells.index("lda on E_s (served)")
    assert page.cells[at + 5 : at + 7] == ["0.583", "–"]
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


def test_what_curves_hold_is_drawn(run: Path) -> None:
    page = Page(report(run))
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
    assert page.count("rect", "unseen") == (count if count == 40 else 20 + count)
    assert (f"Unseen classes: the 20 worst of {count}" in page.charts()) == (count > 40)
    (heat,) = (f for tag, f in page.tags if tag == "svg" and f["aria-label"] == "What unseen classes are taken for")
    assert float(heat["width"] or 0) <= 1040
    assert page.count("rect", "heat") == count + 5  # and those of the legend


# --- charts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.643, 0.697, False, [0.66, 0.68]),
        (-0.05, 0.05, False, [-0.04, -0.02, 0, 0.02, 0.04]),
        (1, 60, True, [20, 40, 60]),
        (1, 2, True, [1, 2]),
        (0.5, 1.5, True, [1]),
        (0, 3e6, False, [0, 1e6, 2e6, 3e6]),
    ],
)
def test_ticks(low: float, high: float, whole: bool, expected: list[float]) -> None:
    assert ticks(low, high, whole=whole) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9, 0.98], [0.9, 0.92, 0.94, 0.96, 0.98]),
        ([0.916, 0.997], [0.9, 0.95, 1.0]),
        ([5.35, 8.68], [5, 6, 7, 8, 9]),
        ([2.0, 2.0], [1.8, 1.9, 2.0, 2.1, 2.2]),
        ([0.0], [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_axes_end_at_round_values(values: list[float], expected: list[float]) -> None:
    low, high, shown = axis(values)
    assert shown == pytest.approx(expected)
    assert (low, high) == pytest.approx((expected[0], expected[-1]))


def coordinates(chart: str, style: str) -> list[tuple[float, float]]:
    path = re.search(rf'<path class="{style}(?: thick)?" d="M([^"]+)"', chart)
    assert path is not None
    return [(float(x), float(y)) for x, y in (pair.split() for pair in path.group(1).split("L"))]


@pytest.mark.parametrize("log_axis", [False, True])
def test_lines_lie_where_their_values_are(log_axis: bool) -> None:
    values = [(1.0, 0.001), (2.0, 0.1), (4.0, 10.0)]
    chart = line_chart("t", [Line(label="a", points=values)], x_label="x", y_label="y", log=log_axis)
    Page(chart)
    (x1, y1), (x2, y2), (x3, y3) = coordinates(chart, "line0")
    assert (x2 - x1) / (x3 - x1) == pytest.approx(1 / 3, abs=0.01)
    height = math.log10(0.1 / 0.001) / math.log10(10 / 0.001) if log_axis else 0.0099
    assert (y1 - y2) / (y1 - y3) == pytest.approx(height, abs=0.01)


def test_values_that_cannot_be_drawn() -> None:
    points = [(1.0, math.nan), (2.0, 0.5), (3.0, math.inf), (4.0, 0.25)]
    chart = line_chart("t", [Line(label="", points=points)], x_label="x", y_label="y")
    assert len(coordinates(chart, "line0")) == 2
    assert "nan" not in chart
    assert "inf" not in chart
    assert "no finite value" in line_chart("t", [Line(label="", points=points[:1])], x_label="x", y_label="y")
    zero = line_chart("t", [Line(label="", points=[(1, 0.0), (2, 0.5)])], x_label="x", y_label="y", log=True)
    (_, bottom), (_, above) = coordinates(zero, "line0")
    assert bottom > above


def test_one_point_and_equal_values() -> None:
    for points in ([(1.0, 0.0)], [(1.0, 2.5), (2.0, 2.5)]):
        assert "nan" not in line_chart("t", [Line(label="a", points=points)], x_label="x", y_label="y")


def test_labels_at_the_ends_do_not_overlap() -> None:
    lines = [Line(label=f"line {i}", points=[(1, 0.5), (2, 0.5 + i / 1000)]) for i in range(4)]
    lines.append(Line(label="far", points=[(1, 0.0), (2, 0.0)]))
    chart = line_chart("t", lines, x_label="x", y_label="y")
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="start">(?:line \d|far)<', chart))
    assert len(places) == 5
    assert min(b - a for a, b in pairwise(places)) >= 13.9


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart("t", [Bar(label="a", value=0.25), Bar(label="b", value=1.0, other=0.5)], style="seen", mean=0.5)
    Page(chart)
    short, full = (float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', chart))
    assert short / full == pytest.approx(0.25, abs=0.002)
    (other,) = re.findall(r'class="other" x1="([\d.]+)"', chart)
    (mean,) = re.findall(r'class="mark" x1="([\d.]+)"', chart)
    assert other == mean


def test_curves_and_marks_lie_where_their_values_are() -> None:
    points = [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0)]
    lines = [Line(label="a", points=points), Line(label="b", points=points, strong=True)]
    mark = Mark(label="m", title="it", x=0.5, y=0.5, line=1, filled=True)
    chart = curve_chart("t", lines, x_range=(0, 1), y_range=(0, 1), x_label="x", y_label="y", marks=[mark])
    Page(chart)
    samples = re.findall(r'<path class="(line\d(?: thick)?)" d="M([^"]+)"', chart)
    assert [style for style, _ in samples] == ["line0", "line1 thick"] * 2  # the legend's, then the lines
    (x1, y1), (x2, y2), (x3, y3) = ((float(a), float(b)) for a, b in (p.split() for p in samples[2][1].split("L")))
    assert ((x2 - x1) / (x3 - x1), y2) == (pytest.approx(0.5, abs=0.01), y1)
    places = re.findall(r'<circle class="disc line1" cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert [float(v) for v in places[1]] == pytest.approx([x2, (y1 + y3) / 2], abs=0.1)
    assert "it: 0.5, 0.5" in chart


def test_clouds() -> None:
    chart = cloud_chart(
        "t", behind=[], real=[[0.0, 0.0], [2.0, 2.0]], synthetic=[[1.0, 1.0]], x_range=(0, 2), y_range=(0, 2)
    )
    Page(chart)
    (real,) = re.findall(r'class="real" d="([^"]+)"', chart)
    (x1, y1), (x2, y2) = ((float(a), float(b)) for a, b in re.findall(r"M([\d.]+) ([\d.]+)h0", real))
    assert x1 < x2
    assert y1 > y2
    (cross,) = re.findall(r'class="synthetic" d="M([\d.]+) ([\d.]+)l5.2 5.2', chart)
    assert [float(v) + 2.6 for v in cross] == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2], abs=0.11)


def test_heat_map() -> None:
    shares = {(0, 0): 0.75, (0, 2): 0.25, (1, 1): 1.0}
    chart = heat_map("t", ["a", "b"], ["a", "b", "c"], shares, x_label="x", y_label="y")
    Page(chart)
    cells = re.findall(r'class="heat" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"[^>]*fill-opacity="([\d.]+)"', chart)
    assert [float(cell[3]) for cell in cells] == [0.75, 0.25, 1.0]
    (x0, y0, side), (x2, _, _), (x1, y1, _) = ([float(v) for v in cell[:3]] for cell in cells)
    assert (x1 - x0, x2 - x0, y1 - y0) == pytest.approx((side, 2 * side, side), abs=0.11)
    assert [int(v) for v in re.findall(r">(\d+)</text>", chart)] == [75, 25, 100]
