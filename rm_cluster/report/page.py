"""The page of a job: sections of text, figures and tables in one HTML file that opens from disk."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from rm_cluster.report.figure import DARK, LIGHT, VEGA_LITE_VERSION, Figure
from rm_cluster.report.table import Table
from rm_cluster.store import Folder

# Ends of elements and comments, and what old JavaScript takes for line ends.
_JSON_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Section:
    """One thing to see: what it is, a text that says what one sees, a figure, a table."""

    title: str
    text: str = ""
    figure: Figure | None = None
    table: Table | None = None


@dataclass(frozen=True)
class Page:
    """What a job has to show.

    Attributes:
        title: Of the page.
        sections: In the order of reading.
        config: The resolved configuration, as YAML.
        run: What `run.json` says.
        stamp: What makes the numbers provisional, such as a limit; empty if nothing does.
    """

    title: str
    sections: list[Section]
    config: str
    run: dict[str, Any] = field(repr=False)
    stamp: str = ""

    @property
    def figures(self) -> list[Figure]:
        return [section.figure for section in self.sections if section.figure is not None]


def write_page(page: Page, folder: Folder) -> None:
    """Write `report.html`, and its figures as `figures/*.svg`."""
    pictures = folder.sub("figures")
    pictures.clear()  # an earlier run may have had others
    for number, figure in enumerate(page.figures, start=1):
        pictures.write_text(file_name(number, figure), figure.svg())
    folder.write_text("report.html", render(page))


def file_name(number: int, figure: Figure) -> str:
    """A name that any file system takes, whatever the figure is called."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", figure.name).strip("-").lower()[:60]
    return f"{number:02d}-{plain}.svg"


def render(page: Page) -> str:
    """Return the page; every text from models and data is escaped."""
    scripts = [_library(), _resource("report.js")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rm_cluster", "report"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        page=page,
        run=json.dumps(page.run, indent=2, ensure_ascii=False),
        style=_resource("report.css"),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        themes=script_json({"light": LIGHT, "dark": DARK}),
        script_json=script_json,
        file_name=file_name,
    )


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))


@functools.cache
def _library() -> Markup:
    """Vega, Vega-Lite and vegaEmbed, as one script; it takes a second to put together."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE_VERSION))


def _resource(name: str) -> Markup:
    return Markup(files("rm_cluster.report").joinpath(name).read_text(encoding="utf-8"))


def _hash(script: str) -> str:
    """How the content security policy names a script that may run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
