"""Comparisons from Python: `rewardft.compare`. The command line is a layer over it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewardft.comparisons.comparison import compare as make_comparison
from rewardft.comparisons.launching import find_launch
from rewardft.comparisons.matching import parse_match
from rewardft.comparisons.members import Member, expand
from rewardft.comparisons.report.verdicts import focus, value_of
from rewardft.comparisons.runner import Launch, Notify
from rewardft.comparisons.sources import (
    MOST_SEEDS,
    Request,
    Variant,
    parse_vary,
    read_sources,
    short_name,
    vary,
)
from rewardft.comparisons.tuning import Search, tuned
from rewardft.comparisons.weight_sweep import sweep
from rewardft.contracts.records import ComparisonRecord, Interval, VariantRecord
from rewardft.errors import ComponentError, RecipeError
from rewardft.files.paths import file_name, given_folder
from rewardft.files.surroundings import put_back
from rewardft.recipe.shipped import find_recipe
from rewardft.runs.api import Overrides, as_settings
from rewardft.runs.table import Table

# What the report imports; asked for up front, or hours of runs would end without one.
NEEDED = ("plotly", "jinja2", "pyarrow")


@dataclass(frozen=True)
class Options:
    """Everything but the sources: settings, values to vary, seeds, budget, pictures, what to match
    runs by, what to tune before and on which budget."""

    vary: Sequence[str] = ()
    settings: Sequence[str] = ()
    seeds: int | None = None
    budget: str | None = None
    pictures: int = 6
    match: str | None = None
    tune: Sequence[str] = ()
    tune_budget: str | None = None

    @property
    def search(self) -> Search | None:
        """What is tuned before the comparison. Raises RecipeError for half of it."""
        return Search.of(self.tune, self.tune_budget)


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its record, its folder and the files of its report."""

    record: ComparisonRecord
    folder: Path
    files: Sequence[Path]

    @property
    def table(self) -> Table:
        """The value that the comparison is about, a row for each variant."""
        name = focus(self.record)
        start = self.record.start
        return Table([comparison_row(variant, name, start) for variant in self.record.variants])

    def _repr_html_(self) -> str:
        return f"<p><b>{focus(self.record) or 'held-out values'}</b></p>{self.table._repr_html_()}"


def compare(
    *sources: Path | str,
    vary: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    overrides: Overrides = (),
    seeds: int | None = None,
    budget: str | None = None,
    out: Path | str | None = None,
    jobs: int | None = None,
    pictures: int = 6,
    launcher: str = "local",
    launcher_options: Mapping[str, Any] | None = None,
    match: str | None = None,
    tune: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    tune_budget: str | None = None,
) -> Comparison:
    """Run recipes with several seeds to equal budgets and write the report.

    Args:
        sources: recipes, comparison files or finished run folders; or names of shipped ones.
        vary: `{"optimizer.lr": [1e-3, 1e-4]}`, or as after `--vary`.
        overrides: settings for every variant, as for `rewardft.run`.
        seeds: how many; None: as the comparison file says.
        budget: such as `2000-rewards`; None: as the recipes say.
        out: the folder; default: one in `runs` that is named after the sources.
        jobs: runs at a time; None: one here, and as many as there is room for elsewhere.
        launcher, launcher_options: where the runs are made: `local`, or a plugin's, or its file.
        tune: settings that each variant is tuned by before, as in `vary`.
        tune_budget: what each run of that search may spend, such as `500-rewards`.
        match: `divergence`, or `divergence=0.05`, to compare at equal divergence from the base.

    Raises:
        ComponentError: the extra `report` is not installed. RecipeError: no variant can be run.
    """
    require_report()
    launch = find_launch(launcher, launcher_options or {}, jobs)
    names = [str(source) for source in sources]
    # Nothing is built or trained before `finish`: a wrong recipe is reported in a second.
    settings = as_settings(overrides)
    varied, tried = as_vary(vary), as_vary(tune)
    options = Options(varied, settings, seeds, budget, pictures, match, tried, tune_budget)
    request = build_request(names, options)
    folder = default_folder(names) if out is None else given_folder(out)
    if options.search:
        request = tuned(request, options.search, folder, launch, be_quiet)
    said = f"rewardft.compare({', '.join(map(repr, names))})"
    return finish(request, expand(request, folder), folder, launch, be_quiet, said, pictures)


@put_back()
def finish(
    request: Request,
    members: Sequence[Member],
    folder: Path,
    launch: Launch,
    notify: Notify,
    command: str,
    pictures: int,
) -> Comparison:
    """Run what is missing and write the report."""
    from rewardft.comparisons.report import write_report

    folder = folder.absolute()
    record = make_comparison(request, members, folder, launch, notify, command, pictures)
    return Comparison(record, folder, write_report(record, folder))


def require_report(command: str = "compare") -> None:
    """Raises ComponentError before anything runs, where the report could not be written."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ComponentError(
            f"`rewardft {command}` needs {', '.join(missing)}: pip install 'rewardft[report]'"
        )


def default_folder(names: Sequence[str]) -> Path:
    """`runs/compare-NAMES`."""
    title = "-".join(["compare", *(short_name(Path(name)) for name in names[:3])])
    return Path("runs") / file_name(title)


def build_request(names: Sequence[str], options: Options) -> Request:
    """Sources, settings, then what is varied; seeds and budget given here win over a file's."""
    counted = isinstance(options.seeds, int) and 1 <= options.seeds <= MOST_SEEDS
    if options.seeds is not None and not counted:
        wanted = f"seeds: expected 1 to {MOST_SEEDS:,}, got {options.seeds!r:.60}."
        raise RecipeError("seeds", [wanted])
    # In the order of strength: sources, settings for all, what is varied, then seeds and budget.
    request = read_sources(names, find_recipe)
    variants: Sequence[Variant] = [
        variant.with_settings(*options.settings) for variant in request.variants
    ]
    # After the settings, so that a varied key wins over one that is set for all.
    for text in options.vary:
        variants = vary(variants, *parse_vary(text))
    # Last: which rewards there are to weigh, the settings before may have changed.
    if request.pareto is not None:
        variants = sweep(variants, request.pareto, request.name)
    match = options.match or request.match
    if match is not None:
        # Now, for a slip in it must not come out after hours of runs.
        parse_match(match)
    return replace(
        request,
        variants=tuple(variants),
        seeds=options.seeds or request.seeds,
        budget=options.budget or request.budget,
        match=match,
    )


def as_vary(vary: Mapping[str, Sequence[Any]] | Sequence[str]) -> list[str]:
    """`KEY=VALUE,VALUE` for each key."""
    if isinstance(vary, Mapping):
        # As text, which is read as YAML: the same as after `--vary`.
        return [f"{key}={','.join(map(in_yaml, values))}" for key, values in vary.items()]
    return [vary] if isinstance(vary, str) else list(vary)


def in_yaml(value: Any) -> str:
    """`None` and `True` as YAML writes them; text, which needs no quotes, a path or a number of
    numpy's as it is."""
    plain = value is None or isinstance(value, (bool, int, float, list, tuple, dict))
    return json.dumps(value, default=str) if plain else str(value)


def be_quiet(member: Member, code: int | None, total: int) -> None:
    """Runs begin and end without a line; their logs are in their folders."""


def comparison_row(variant: VariantRecord, name: str | None, start: str = "base") -> dict[str, Any]:
    """One variant by what the report is about. start: the name of what it is compared with."""
    value = value_of(variant, name)
    if value is None:
        # Without a value there is at least a reason, and seeds mostly share it.
        run = variant.runs[0]
        return {"variant": variant.name, "no result": run.reason or run.status}
    # The rival is named: each variant's best other is another one.
    best = f"{difference(value.versus_best)} ({value.best})" if value.versus_best else ""
    return {
        "variant": variant.name,
        start: None if value.before is None else value.before.value,
        "tuned": None if value.after is None else value.after.value,
        "difference (95 %)": difference(value.versus_base),
        "to the best other (95 %)": best,
    }


def difference(interval: Interval | None) -> str:
    """A difference with its interval; '' where there is none."""
    if interval is None:
        return ""
    return f"{interval.value:+.3g} ({interval.low:+.3g} to {interval.high:+.3g})"
