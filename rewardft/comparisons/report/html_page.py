"""report.html: one file that needs no network.

All text is escaped; only plugins' sections stand as given.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rewardft.comparisons.report import tables
from rewardft.comparisons.report.cells import Table
from rewardft.comparisons.report.curves import figure_data
from rewardft.comparisons.report.front import front_table
from rewardft.comparisons.report.pictures import Gallery
from rewardft.comparisons.report.reading import TERMS
from rewardft.comparisons.report.sentences import lead, sentences
from rewardft.comparisons.report.verdicts import focus, group_of, value_names
from rewardft.contracts.records import ComparisonRecord
from rewardft.errors import RewardftError

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("common.js", "tables.js", "charts.js", "curves.js", "tradeoffs.js", "samples.js")
_LIVE = ("live.js",)  # after the others, whose controls it puts back
_SUMMARIES = 12  # sentences that are shown without unfolding the rest


@dataclass(frozen=True)
class Live:
    """What a page that is watched has above the report.

    grids: runs with their pictures, each with its step and its source. version: changes when the
        page would; '' for a page that is not served.
    """

    summary: str
    table: Table
    grids: Sequence[Mapping[str, Any]]
    version: str = ""


def html_page(record: ComparisonRecord, folder: Path, live: Live | None = None) -> str:
    """The page, its library, its data and its pictures.

    live: of runs that may still go on. Raises RewardftError where plotly or jinja2 is missing.
    """
    jinja2, plotly = _need("jinja2"), _need("plotly.offline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A misspelled name in a template is an error, not an empty place in a report.
        undefined=jinja2.StrictUndefined,
    )
    markup = jinja2.utils.markupsafe.Markup
    gallery = Gallery(record, folder)
    return environment.get_template("page.html").render(
        **_texts(record),
        **_tables(record),
        failures=tables.failure_table(record, is_over=live is None),
        live=live,
        live_data="" if live is None else markup(json_for_html({"grids": live.grids})),
        gallery=gallery,
        style=markup(_read("style.css")),
        # 4 MB, so only where there is something to draw.
        library=markup(_inside_script(plotly.get_plotlyjs())) if _has_figures(record) else "",
        scripts=[
            markup(_inside_script(_read(name))) for name in _SCRIPTS + (_LIVE if live else ())
        ],
        data=markup(json_for_html(figure_data(record))),
        pictures=markup(json_for_html(gallery.data())),
        sections=[
            {"title": s.title, "plugin": s.plugin, "html": markup(s.html)} for s in record.sections
        ],
    )


def json_for_html(value: Any) -> str:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # As JSON's own escapes, which every parser turns back.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _texts(record: ComparisonRecord) -> dict[str, Any]:
    # Some are folded away: a comparison may have a hundred variants.
    said = sentences(record)
    return {
        "record": record,
        "lead": lead(record),
        "summaries": said[:_SUMMARIES],
        "more_summaries": said[_SUMMARIES:],
        "focus": focus(record),
        "terms": TERMS,
    }


def _tables(record: ComparisonRecord) -> dict[str, Any]:
    names = value_names(record)
    known = set(names)
    grouped = [name for name in names if group_of(name, known) is not None]
    first = focus(record)
    return {
        "main": tables.value_table(record, first) if first in known and first is not None else None,
        "overview": tables.overview_table(record, [name for name in names if name not in grouped]),
        "front": front_table(record),
        "groups": tables.overview_table(record, grouped, "groups of samples"),
        # The first has its table at the top.
        "values": {name: tables.value_table(record, name) for name in names if name != first},
        "alarms": tables.alarm_table(record),
        "costs": tables.cost_table(record),
        "search": tables.search_table(record),
        "differences": tables.differences_table(record),
        "common": tables.pairs_table(
            "Settings that all variants share", ("Setting", "Value"), record.common
        ),
        "commands": tables.command_table(record),
        "versions": tables.pairs_table(
            "Versions of packages", ("Package", "Version"), record.versions
        ),
        "has_figures": _has_figures(record),
    }


def _has_figures(record: ComparisonRecord) -> bool:
    runs = (run for variant in record.variants for run in variant.runs)
    return any(variant.values for variant in record.variants) or any(
        run.training or run.evaluations for run in runs
    )


def _need(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise RewardftError(
            f"report.html needs {package}, which cannot be imported ({error}). Install it with "
            "`pip install 'rewardft[report]'`, then write the report again; report.md and "
            "report.csv need nothing more."
        ) from error


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _inside_script(text: str) -> str:
    """Code that holds no end of the script element it stands in."""
    return text.replace("</script", "<\\/script")
