from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rm_cluster as rmc
from rm_cluster.report.evaluation import evaluation_page, write_report
from rm_cluster.report.figure import records
from rm_cluster.report.page import Page, Section, render, script_json
from rm_cluster.report.table import MAX_ROWS, Table
from rm_cluster.store import Folder
from tests.reports import (
    HOSTILE,
    NAMES,
    RM_BENCH_CELLS,
    hostile_result,
    made_up_result,
    metric_rows,
    outcome_rows,
    realistic_result,
)


def attributes(html: str) -> list[tuple[str, str, str]]:
    """Tag, name and value of every attribute that a browser would see."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend((tag, name, value or "") for name, value in attrs)

    Parser().feed(html)
    return found


def specs(html: str) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json" class="spec">(.*?)</script>', html, re.S)
    return [json.loads(text) for text in found]


def axis_titles(spec: Any) -> dict[str, set[str]]:
    """Titles of the x and y axes, anywhere in a spec."""
    titles: dict[str, set[str]] = {"x": set(), "y": set()}
    if isinstance(spec, dict):
        for channel in ("x", "y"):
            title = spec.get("encoding", {}).get(channel, {}).get("title")
            titles[channel] |= {title} if title else set()
        spec = list(spec.values())
    for part in spec if isinstance(spec, list) else []:
        for channel, more in axis_titles(part).items():
            titles[channel] |= more
    return titles


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(realistic_result(), Folder(str(folder)))
    return folder


def test_the_page_is_one_small_file_that_loads_nothing(written: Path) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    assert len(html.encode()) < 6e6
    loaded = [value for _, name, value in attributes(html) if name in ("src", "href", "data")]
    assert all(value.startswith("#section-") or value == "#what-ran" for value in loaded)
    assert "default-src 'none'" in html


def test_every_figure_says_what_it_shows_and_in_what_units() -> None:
    figures = evaluation_page(realistic_result()).figures
    assert len(figures) == 11  # 3 leaderboards, 2 x 2 heat maps, best of K, 2 correlations, points
    for figure in figures:
        assert figure.title
        titles = axis_titles(figure.spec())
        assert titles["x"], figure.name
        assert titles["y"], figure.name


def test_pictures_are_written_as_well_formed_svg_with_their_title(written: Path) -> None:
    pictures = sorted((written / "figures").iterdir())
    assert [p.name[:2] for p in pictures] == [f"{i:02d}" for i in range(1, 12)]
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.findall(".//{http://www.w3.org/2000/svg}path")
    overview = (written / "figures" / "04-overview-ppe.svg").read_text()
    assert "one reward model among 12" in overview
    assert "Shown: " in overview


def test_pictures_of_an_earlier_run_go(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.sub("figures").write_text("99-old.svg", "old")
    write_report(made_up_result(metric_rows(NAMES[:2], "rm-bench", RM_BENCH_CELLS)), folder)
    assert "99-old.svg" not in {path.name for path in (tmp_path / "figures").iterdir()}


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    write_report(hostile_result(), Folder(str(tmp_path)))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>document" not in html
    assert not {tag for tag, _, _ in attributes(html)} & {"img", "b", "iframe", "object"}
    assert not [name for _, name, _ in attributes(html) if name.startswith("on")]
    assert "&lt;script&gt;document.title" in html
    names = {row["reward_model"] for row in specs(html)[0]["datasets"]["board"]}
    assert names == set(HOSTILE)
    for picture in (tmp_path / "figures").iterdir():
        tags = {element.tag.split("}")[1] for element in ElementTree.parse(picture).iter()}
        assert not tags & {"script", "img", "image", "foreignObject", "a"}


def test_data_never_becomes_a_field_or_an_expression() -> None:
    # what stands outside of datasets and choices is the same whatever the names are
    for figure in evaluation_page(hostile_result()).figures:
        spec = {key: value for key, value in figure.spec().items() if key != "datasets"}
        for param in spec.get("params", []):
            param.pop("bind", None)
        text = json.dumps(spec)
        for title in axis_titles(spec)["x"] | axis_titles(spec)["y"]:
            text = text.replace(json.dumps(title), "")
        assert "owned" not in text, figure.name


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = script_json(["</script>", "<!--", "&", "\u2028\u2029"])
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == ["</script>", "<!--", "&", "\u2028\u2029"]


def test_records_hold_five_digits_and_no_nan() -> None:
    table = pd.DataFrame({"a": [0.123456789, float("nan"), float("inf")], "b": [1, 2, 3]})
    assert records(table) == [{"a": 0.12346, "b": 1}, {"a": None, "b": 2}, {"a": None, "b": 3}]


@pytest.mark.parametrize("name", ["math\x1b", "a\x00b", "\uffff"])
def test_a_name_that_xml_cannot_hold_is_drawn(name: str) -> None:
    cells = [("overall", "accuracy"), (name, "accuracy"), ("z", "accuracy")]
    result = made_up_result(metric_rows(("a", name), "mine", cells))
    for figure in evaluation_page(result).figures:
        ElementTree.fromstring(figure.svg())


def test_a_table_keeps_the_raw_number_to_sort_by() -> None:
    frame = pd.DataFrame(
        {"name": ["a"], "x": [0.00012], "ci_low": [0.0], "ci_high": [1.0], "n": [1200]}
    )
    table = Table.of(frame, {"name": "name", "x [ci]": "x", "x": "x", "n": "n"}, "t.csv")
    texts, values = zip(*((cell.text, cell.sort_value) for cell in table.rows[0]), strict=True)
    assert texts == ("a", "0.00012 [0.000, 1.000]", "1.2e-04", "1200")
    assert values == (None, "0.00012", "0.00012", "1200.0")


def test_a_long_table_says_how_many_rows_are_elsewhere() -> None:
    table = Table.of(pd.DataFrame({"x": range(MAX_ROWS + 7)}), {"x": "x"}, "metrics.csv")
    assert len(table.rows) == MAX_ROWS
    assert table.rest == "7 more rows are in metrics.csv."


def test_lower_is_better_is_colored_so() -> None:
    # brier 0.1 beats 0.2: the first reward model has shade 1, as has the one with accuracy 0.9
    cells = [("overall", "accuracy"), ("overall", "brier")]
    metrics = metric_rows(("good", "bad"), "rm-bench", cells)
    metrics["value"] = [0.9, 0.1, 0.6, 0.2]
    overview = next(
        f for f in evaluation_page(made_up_result(metrics)).figures if f.name.startswith("overview")
    )
    shades = {(row.choice, row.metric): row.shade for row in overview.tables["cells"].itertuples()}
    assert shades == {(0, "accuracy"): 1, (0, "brier"): 1, (1, "accuracy"): 0, (1, "brier"): 0}
    assert "Lower is better for brier" in overview.note


def test_a_reward_model_without_a_value_stays_in_sight() -> None:
    metrics = metric_rows(("whole", "failed"), "rm-bench", [("overall", "accuracy")])
    metrics.loc[1, ["value", "stderr", "ci_low", "ci_high"]] = np.nan
    page = evaluation_page(made_up_result(metrics))
    assert "failed" in page.figures[0].svg()
    assert page.sections[0].table is not None
    assert page.sections[0].table.rows[1][2].text == "-"


@pytest.mark.parametrize("value", [0.7, float("nan")])
def test_one_reward_model_with_one_value_makes_a_page(value: float) -> None:
    metrics = metric_rows(("only",), "mine", [("overall", "accuracy")]).assign(value=value)
    page = evaluation_page(made_up_result(metrics))
    html = render(page)
    assert len(page.figures) == (0 if np.isnan(value) else 1)
    assert "Prompts that failed" not in html


def test_nothing_to_compare_makes_a_page_that_says_so() -> None:
    result = made_up_result(metric_rows(("only",), "mine", [("overall", "accuracy")]))
    result = dataclasses.replace(result, metrics=result.metrics[:0])
    result.run["benchmarks"]["mine"] = {
        "n": 3, "n_pairs": 0, "n_gold_ties": 0, "n_rejected_rows": 0,
    }  # fmt: skip
    assert "3 prompts scored, nothing to compare" in render(evaluation_page(result))


def test_thousands_of_metrics_make_a_page_of_bounded_size() -> None:
    models = tuple(f"reward-model-{i}" for i in range(30))
    cells = [(f"domain-{i}", m) for i in range(300) for m in ("accuracy", "score", "hard")]
    cells += [("overall", "accuracy"), ("overall", "score")]
    metrics = metric_rows(models, "rm-bench", cells)
    html = render(evaluation_page(made_up_result(metrics, outcomes=outcome_rows(models))))
    assert len(html.encode()) < 6e6
    assert "more rows are in metrics.csv" in html
    assert "The first 60 of 301 domains." in html


def test_failed_prompts_are_counted_and_a_limited_run_is_stamped() -> None:
    html = render(evaluation_page(realistic_result()))
    assert "90 in all, the first 50 here" in html
    assert html.count("max_length=4096") == 50
    assert "PARTIAL: only the first 500 prompts" in html


def test_a_section_needs_neither_figure_nor_table() -> None:
    html = render(Page("t", [Section("Alone & well", "Only <b>words</b>.")], "seed: 0\n", {"n": 1}))
    assert "Alone &amp; well" in html
    assert "Only &lt;b&gt;words&lt;/b&gt;." in html
    assert not specs(html)


def test_a_result_leaves_no_table_of_the_one_before(tmp_path: Path) -> None:
    hostile_result().save(str(tmp_path))
    assert (tmp_path / "pair_sweep.csv").exists()
    without = dataclasses.replace(hostile_result(), pair_sweep=None)
    without.save(str(tmp_path))
    assert not (tmp_path / "pair_sweep.csv").exists()
    assert rmc.load_result(str(tmp_path)).pair_sweep is None
