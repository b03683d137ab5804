"""The report is one whole file: everything in it, nothing outside it, never half of it."""

import base64
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from bayesmix import plots
from bayesmix.comparison import report
from bayesmix.comparison.sections import cell
from tests.examples import example_comparison

HEADINGS = {
    "Parameters",
    "Prediction of held-out rows",
    "Calibration",
    "Agreement of the clusterings: adjusted Rand index",
    "Agreement of the clusterings: variation of information, bits",
    "Diagnostics of the samplers",
    "Modes found",
    "Time on all rows",
    "Pictures",
    "The program, as it was read",
    "How to get this again",
}
_VOID = {"meta", "img"}


class _Reader(HTMLParser):
    """Collects the text and the attributes, and checks that every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.attributes, self.tags = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def within(self, tag):
        return [text for where, text in self.texts if where == tag]


@pytest.fixture
def unsaved(monkeypatch):
    """Draw the pictures, but don't spend the time that rendering their pixels takes."""
    monkeypatch.setattr(plots, "figure_png", lambda figure: b"a picture")


@pytest.fixture(scope="module")
def comparison():
    return example_comparison(rows=40, columns=2, components=2)


@pytest.fixture(scope="module")
def page(comparison):
    return report.render_report(comparison)


def test_the_report_holds_every_section_table_and_picture(comparison, page):
    reader = _Reader(page)
    assert set(reader.within("h2")) == HEADINGS
    assert reader.within("h1") == [comparison.title]
    assert comparison.verdict in reader.within("p")
    assert comparison.plan_text in reader.within("pre")
    cells = reader.within("td")
    for row in comparison.parameters:
        assert row["parameter"] in cells
        assert cell(row["NUTS"]) in cells
        assert cell(row["MAP-EM"]) in cells
    for name in comparison.engines:
        assert f"{comparison.engines[name].seconds:.2f}" in cells
    assert f"{comparison.engines['MAP-EM'].modes[1][0]:.4f}" in cells
    assert "0.970" in cells and "1.7" in cells
    assert str(comparison.seed) in cells and np.__version__ in cells
    assert any("constrained space" in text for text in reader.within("p"))
    pictures = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    assert len(pictures) == 9  # seven, and the draws of two samplers
    for source in pictures:
        head, code = source.split(",", 1)
        assert head == "data:image/png;base64"
        assert base64.b64decode(code, validate=True).startswith(b"\x89PNG\r\n")
    assert len(reader.within("figcaption")) == len(pictures)


def test_the_report_needs_nothing_outside_itself(page):
    reader = _Reader(page)
    assert "://" not in page
    assert not {"a", "link", "script", "iframe", "object"} & set(reader.tags)
    assert "@import" not in page and "url(" not in page
    assert not any(name in ("href", "srcset") for _, name, _ in reader.attributes)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_the_same_comparison_gives_the_same_page(comparison, page):
    assert report.render_report(comparison) == page


def test_all_text_is_escaped(unsaved):
    nasty = '<script>alert("x")</script> & $title ${y}'
    comparison = example_comparison(rows=20, columns=2, components=2)
    comparison.title = comparison.plan_text = comparison.verdict = nasty
    comparison.columns = (nasty, "b")
    comparison.versions = {nasty: nasty}
    comparison.parameters = [{"parameter": nasty, "MAP-EM": nasty}]
    comparison.engines["MAP-EM"].status = nasty
    comparison.engines["NUTS"].diagnostics = nasty
    reader = _Reader(report.render_report(comparison))
    assert "script" not in reader.tags
    assert nasty in reader.within("h1") and nasty in reader.within("pre")
    assert reader.within("td").count(nasty) == 4


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("engines", [("MAP-EM",), ("Gibbs",), ("MLE-EM", "NUTS"), ()])
def test_sections_without_content_are_left_out(tmp_path, unsaved, engines, columns):
    comparison = example_comparison(rows=25, columns=columns, engines=engines)
    comparison.scores = []
    path = report.write_report(comparison, tmp_path / "report.html")
    reader = _Reader(path.read_text(encoding="utf-8"))
    sampled = any(name in ("Gibbs", "NUTS") for name in engines)
    optimised = any(name.endswith("EM") for name in engines)
    expected = HEADINGS - {"Prediction of held-out rows"}
    if not sampled:
        expected -= {"Diagnostics of the samplers"}
    if not optimised:
        expected -= {"Modes found"}
    if len(engines) < 2:
        expected -= {title for title in HEADINGS if title.startswith("Agreement")}
    if not engines:
        expected -= {"Parameters", "Time on all rows", "Pictures", "Calibration"}
    assert set(reader.within("h2")) == expected


def test_empty_fields_are_no_error(unsaved):
    comparison = example_comparison(rows=20, columns=1, components=1, engines=("MAP-EM",))
    comparison.parameters, comparison.scores, comparison.diagnostics = [], [], []
    comparison.calibration, comparison.calibration_scores = [], []
    comparison.agreements, comparison.modes, comparison.density = {}, [], None
    comparison.verdict = comparison.plan_text = ""
    comparison.engines["MAP-EM"].objective = None
    comparison.engines["MAP-EM"].modes = []
    reader = _Reader(report.render_report(comparison))
    assert reader.tags.count("img") == 2  # the density and the responsibilities


def test_a_single_engine_has_no_column_of_differences(unsaved):
    comparison = example_comparison(rows=20, columns=1, engines=("MAP-EM",))
    headings = _Reader(report.render_report(comparison)).within("th")
    assert "mean log density per row" in headings
    assert "difference from MAP-EM" not in headings


@pytest.mark.parametrize("earlier", [None, "the earlier report"])
def test_a_failing_picture_leaves_no_file_and_no_half_one(
    tmp_path, monkeypatch, unsaved, comparison, earlier
):
    def fail(_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(plots, "plot_modes", fail)
    target = tmp_path / "report.html"
    if earlier is not None:
        target.write_text(earlier)
    with pytest.raises(RuntimeError, match="no ink"):
        report.write_report(comparison, target)
    assert [path.name for path in tmp_path.iterdir()] == (["report.html"] if earlier else [])
    assert earlier is None or target.read_text() == earlier


def test_a_failing_move_leaves_the_earlier_report_and_no_draft(tmp_path, monkeypatch, unsaved):
    comparison = example_comparison(rows=20, columns=1, engines=("MAP-EM",))
    target = tmp_path / "report.html"
    target.write_text("the earlier report")

    def fail(*_):
        raise PermissionError("locked")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(PermissionError, match="locked"):
        report.write_report(comparison, target)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "the earlier report"


def test_the_report_replaces_an_earlier_one_and_returns_its_path(tmp_path, unsaved):
    comparison = example_comparison(rows=20, columns=1, engines=("MAP-EM",))
    target = tmp_path / "report.html"
    target.write_text("the earlier report")
    assert report.write_report(comparison, str(target)) == target
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_wrong_path_is_refused_before_any_work(tmp_path, monkeypatch, comparison):
    monkeypatch.setattr(report, "render_report", lambda _: pytest.fail("worked in vain"))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report.write_report(comparison, tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        report.write_report(comparison, tmp_path / "missing" / "report.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (-1234.56, "-1235"),
        (3, "3"),
        (np.int64(12345), "12345"),
        (1.5e-9, "1.5e-09"),
        (float("nan"), "not defined"),
        (float("-inf"), "-inf"),
        (None, "-"),
        ("as it is", "as it is"),
        (np.array([1.0, 0.5, 1.5]), "1 [0.5, 1.5]"),
        (np.float32(2.5), "2.5"),
    ],
)
def test_values_in_tables(value, text):
    assert cell(value) == text


def test_no_section_is_named_twice(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(titles) == len(set(titles))
