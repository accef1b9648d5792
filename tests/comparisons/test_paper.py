"""`rewardft report --paper`: what is drawn and tabled against the record, and a document that compiles."""

import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from rewardft.cli import main
from rewardft.comparisons import paper as paper_folder
from rewardft.comparisons.paper import write_paper
from rewardft.comparisons.paper.figures import figures
from rewardft.comparisons.paper.paper_table import LINE, PAGE, PaperTable, tex
from rewardft.comparisons.paper.series import curve, path_between
from rewardft.comparisons.paper.tables import tables
from rewardft.comparisons.report.curves import axis_of
from rewardft.comparisons.report.numbers import interval
from rewardft.comparisons.report.verdicts import ranked, value_of
from tests.comparisons.fake import TARGET, fake_comparison

WIDTH = 3.35
FIGURES = ("change", "curves", "groups", "tradeoff_diversity", "tradeoff_kl")


@pytest.fixture(scope="module")
def record():
    return fake_comparison()


@pytest.fixture(scope="module")
def paper(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper") / "paper"
    write_paper(record, folder, WIDTH)
    return folder


def test_every_file_is_there_and_named_on_the_page(paper):
    names = {f"{name}.{ending}" for name in FIGURES for ending in ("pdf", "svg", "png")}
    names |= {
        f"{name}.{ending}" for name in ("results", "values", "costs") for ending in ("tex", "md")
    }
    there = {path.name for path in paper.iterdir() if not path.name.startswith(".")}
    # Its values are more than a line of a page has room for.
    assert there == names | {"values_2.tex", "paper.tex", "README.md"}
    page, document = (paper / "README.md").read_text(), (paper / "paper.tex").read_text()
    for name in FIGURES:
        assert f"`{name}.pdf`" in page and rf"{{{name}.pdf}}" in document
    for name in ("results", "values", "values_2", "costs"):
        assert f"`{name}.tex`" in page and rf"\input{{{name}.tex}}" in document


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_the_width_of_a_column(paper, name):
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) [\d.]+ ?\]", (paper / f"{name}.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(72 * WIDTH, abs=0.5)
    with Image.open(paper / f"{name}.png") as image:
        assert image.width == pytest.approx(300 * WIDTH, abs=1)
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', (paper / f"{name}.svg").read_text())
    assert float(width[1]) == pytest.approx(72 * WIDTH, abs=0.5)


def test_the_figure_of_groups_fits_on_a_page(tmp_path, monkeypatch):
    """Fifty variants: the best of them, as the caption says. The other figures are not drawn."""
    groups = lambda *given: (each for each in figures(*given) if each[0] == "groups")
    monkeypatch.setattr(paper_folder, "figures", groups)
    monkeypatch.setattr(paper_folder, "FORMATS", ("pdf",))
    write_paper(fake_comparison(variants=50), tmp_path / "paper", WIDTH)
    pdf = (tmp_path / "paper" / "groups.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 [\d.]+ ([\d.]+) ?\]", pdf)
    assert 400 < float(box[1]) < 72 * 9.7
    page = (tmp_path / "paper" / "paper.tex").read_text()
    found = re.search(r"The best (\d+) of (\d+) variants; the rest in report.csv", page)
    assert found and 1 < int(found[1]) < int(found[2])


def test_letters_in_a_pdf_are_letters(paper):
    assert b"/FontFile2" in (paper / "change.pdf").read_bytes()  # TrueType, embedded
    assert b"/Type3" not in (paper / "change.pdf").read_bytes()


def test_equal_records_give_equal_files(paper, record, tmp_path):
    write_paper(record, tmp_path / "again", WIDTH)
    for path in paper.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_matplotlibs_global_state_is_left_alone(paper):
    import matplotlib

    assert "matplotlib.pyplot" not in sys.modules
    assert matplotlib.rcParams["font.size"] == 10.0


def test_results_are_the_records_numbers(paper, record):
    rows = (paper / "results.md").read_text().splitlines()[2:]
    cells = {
        row.split("|")[1].strip().replace("\\", "").removesuffix(" †"): row.replace(
            "\\", ""
        ).replace("*", "")
        for row in rows
        if row.startswith("|")
    }
    for variant in record.variants:
        value = value_of(variant, TARGET)
        for number in (
            interval(value.before),
            interval(value.after),
            interval(value.versus_base, True),
            interval(value.versus_best, True),
        ):
            assert number in cells[variant.name]


def test_the_best_and_what_cannot_be_told_from_it_is_bold(record):
    (results, *_) = tables(record)
    bold = {results.rows[row][0].removesuffix(" †") for row, _ in results.bold}
    # By hand: those whose interval against the best other one reaches to 0 or above.
    expected = {v.name for v in record.variants if value_of(v, TARGET).versus_best.high >= 0}
    assert bold == expected and 0 < len(bold) < len(record.variants)


def test_groups_that_are_not_compared_with_each_other_are_told(record):
    """As on two base models: the best of each is bold."""
    (results, *_) = tables(record)
    assert (
        results.note == "† raised an alarm. Bold: the best, and what cannot be told apart from it."
    )
    others = {"ddpo": "grpo", "grpo": "ddpo"}
    variants = [with_best(variant, others.get(variant.name)) for variant in record.variants]
    (results, *_) = tables(record.model_copy(update={"variants": variants}))
    assert results.note.endswith(
        " There are 2 groups of variants, each with a best of its own: base model, sampler or samples differ between them."
    )


def with_best(variant, best):
    """The variant with another best other one; None: as it is."""
    if best is None:
        return variant
    values = [value.model_copy(update={"best": best}) for value in variant.values]
    return variant.model_copy(update={"values": values})


def test_an_alarmed_variant_has_a_dagger(record):
    (results, *_) = tables(record)
    alarmed = {row[0] for row in results.rows if row[0].endswith(" †")}
    assert alarmed == {f"{v.name} †" for v in record.variants if v.alarms} != set()


def test_text_is_set_as_it_is():
    assert tex("a_b & 5 % #{x}~^\\ $") == (
        r"a\_b \& 5 \% \#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{} \$"
    )
    assert tex("−0.1 ± 2 † ↑") == r"$-$0.1 $\pm$ 2 $^\dagger$ $\uparrow$"


def test_a_curve_is_the_mean_change_of_the_runs_that_ended(record):
    variant = next(v for v in record.variants if v.name == "ddpo")  # one seed of it has failed
    runs = [run for run in variant.runs if run.status == "finished"]
    assert len(runs) == 2
    held = np.array([[p.values[TARGET] for p in run.evaluations] for run in runs])
    change = held - held[:, :1]
    found = curve(variant, TARGET, "seconds")
    assert found.y == pytest.approx(change.mean(0))
    spent = [[p.axes["seconds"] for p in run.evaluations] for run in runs]
    assert found.x == pytest.approx(np.mean(spent, axis=0))
    half = scipy.stats.t.ppf(0.975, 1) * change.std(0, ddof=1) / math.sqrt(2)
    assert found.high == pytest.approx(change.mean(0) + half)
    assert found.low == pytest.approx(change.mean(0) - half)


def test_an_evaluation_without_the_value_moves_no_other_up(record):
    """Of two runs one lacks the value at its third evaluation: all others are still paired by their steps."""
    variant = next(v for v in record.variants if v.name == "ddpo")
    whole = curve(variant, TARGET, "steps")
    first, second = (run for run in variant.runs if run.status == "finished")
    points = list(second.evaluations)
    points[2] = points[2].model_copy(update={"values": points[2].values | {TARGET: math.nan}})
    runs = [first, second.model_copy(update={"evaluations": points})]
    found = curve(variant.model_copy(update={"runs": runs}), TARGET, "steps")
    assert found.y == [y for k, y in enumerate(whole.y) if k != 2]
    assert found.at == [at for k, at in enumerate(whole.at) if k != 2] and found.at[-1] == math.inf
    other = next(name for name in points[0].values if name != TARGET)
    path = path_between(variant.model_copy(update={"runs": runs}), TARGET, other)
    assert path == list(
        zip(found.y, [y for k, y in enumerate(curve(variant, other, "steps").y) if k != 2])
    )
    # Without the base's value there is no change from the base.
    points[0] = points[0].model_copy(update={"values": points[0].values | {TARGET: math.nan}})
    runs = [first, second.model_copy(update={"evaluations": points})]
    alone = curve(variant.model_copy(update={"runs": [first]}), TARGET, "steps")
    assert curve(variant.model_copy(update={"runs": runs}), TARGET, "steps").y == alone.y


def test_one_seed_has_no_band_and_one_evaluation_no_curve():
    alone = fake_comparison(seeds=1)
    assert all(map(math.isnan, curve(alone.variants[0], TARGET, "calls").low))
    runs = [alone.variants[0].runs[0].model_copy(update={"evaluations": []})]
    assert curve(alone.variants[0].model_copy(update={"runs": runs}), TARGET, "calls") is None


@pytest.mark.parametrize(
    ("budget", "axis"),
    [
        ("2000-rewards", "rewards"),
        ("300-steps", "steps"),
        ("5000-forwards", "forwards"),
        ("10m", "seconds"),
        (None, "calls"),
    ],
)
def test_the_axis_is_the_budgets(budget, axis):
    assert axis_of(budget) == axis


@pytest.mark.slow
def test_variants_beyond_the_colours_are_grey_and_all_in_the_table(tmp_path):
    many = fake_comparison(variants=20)
    write_paper(many, tmp_path / "paper", 7.0)
    text = (tmp_path / "paper" / "results.md").read_text()
    assert all(v.name.split(",")[0] in text.replace("\\", "") for v in ranked(many))


def test_a_record_without_values_has_tables_of_what_there_is(tmp_path, record):
    bare = [v.model_copy(update={"values": []}) for v in record.variants]
    write_paper(record.model_copy(update={"variants": bare, "target": None}), tmp_path / "paper")
    names = {p.name for p in (tmp_path / "paper").iterdir() if not p.name.startswith(".")}
    assert names == {"README.md", "paper.tex", "costs.md", "costs.tex"}


def test_the_command(tmp_path, capsys):
    fake_comparison(variants=2, seeds=1).save(tmp_path / "comparison.json")
    out = tmp_path / "paper"
    assert main(["report", str(tmp_path), "--paper", str(out), "--width", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "report.html") in said and str(out / "change.pdf") in said
    assert main(["report", str(tmp_path), "--paper", str(out), "--width", "0"]) == 2
    assert capsys.readouterr().err == "error: --width: expected 1 to 20 inches, got 0.\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text.tex").write_text("mine")
    assert main(["report", str(tmp_path), "--paper", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "text.tex").read_text() == "mine"


def test_markdown_and_latex_are_one_table():
    table = PaperTable("x", "A caption.", ["a", "b_c"], [["x|y", "1"]], frozenset({(0, 1)}), "note")
    assert (
        table.markdown()
        == "A caption.\n\n| a | b\\_c |\n| --- | ---: |\n| x\\|y | **1** |\n\nnote\n"
    )
    assert r"x\textbar{}y & \textbf{1} \\" in table.latex() and r"a & b\_c \\" in table.latex()


def test_a_table_without_rows_or_values_is_one_part():
    for table in (
        PaperTable("x", "None.", ["a", "b"], []),
        PaperTable("x", "One.", ["a"], [["1"]]),
    ):
        assert table.parts() == [table]
        assert r"\toprule" in table.latex()


def wide(columns, rows):
    """A table whose cells say where they are, 23 characters each, as intervals have."""
    cells = [
        [f"row {row}", *(f"{row:011d} {c:011d}" for c in range(columns))] for row in range(rows)
    ]
    head = ["Variant", *(f"reward/number_{c} at kl/epsilon_mse {c} ↑" for c in range(columns))]
    bold = frozenset({(rows - 1, columns), (0, 1)})
    return PaperTable("values", "All values.", head, cells, bold, "A note.")


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [(2, 3, [(2, 3)]), (9, 33, [(5, 33), (4, 33)]), (6, 90, [(3, 60), (3, 30)] * 2)],
)
def test_a_table_larger_than_a_page_is_cut_into_parts_that_can_be_read(columns, rows, expected):
    whole = wide(columns, rows)
    parts = whole.parts()
    assert [(len(part.columns) - 1, len(part.rows)) for part in parts] == expected
    names = ["values", "values_2", "values_3", "values_4"]
    assert [part.name for part in parts] == names[: len(parts)]
    found = {}
    for part in parts:
        # As wide as its widest cells; 3 characters stand between two columns.
        widths = [max(len(row[c]) for row in part.rows) + 3 for c in range(len(part.columns))]
        assert sum(widths) <= LINE and len(part.rows) <= PAGE
        for r, (first, *cells) in enumerate(part.rows):
            for c, cell in enumerate(cells, 1):
                found[first, part.columns[c]] = (cell, (r, c) in part.bold)
    assert found == {
        (row[0], whole.columns[c]): (row[c], (r, c) in whole.bold)
        for r, row in enumerate(whole.rows)
        for c in range(1, len(row))
    }
    if len(parts) > 1:
        last = parts[-1]
        assert last.caption == f"All values. Part {len(parts)} of {len(parts)}."
    assert {part.note for part in parts} == {"A note."}


def test_a_heading_longer_than_its_cells_is_broken():
    table = PaperTable(
        "x", "A caption.", ["Variant", "a/value at kl/epsilon_mse 0.02"], [["a", "1"]]
    )
    assert (
        r"Variant & \begin{tabular}[b]{@{}r@{}}a/value at \\ kl/epsilon\_mse \\ 0.02\end{tabular} \\"
        in table.latex()
    )


def test_many_variants_and_values_are_on_pages_that_can_be_read(tmp_path, monkeypatch):
    """The document has each part in a float of its own, and the page names the files. No figure is drawn."""
    monkeypatch.setattr(paper_folder, "figures", lambda *given: ())
    record = with_values(fake_comparison(variants=70), 12)
    write_paper(record, tmp_path / "paper")
    parts = next(table for table in tables(record) if table.name == "values").parts()
    document, page = (
        (tmp_path / "paper" / name).read_text() for name in ("paper.tex", "README.md")
    )
    assert len(parts) > 2
    for part in parts:
        assert document.count(rf"\input{{{part.name}.tex}}") == 1 and f"`{part.name}.tex`" in page
        assert (tmp_path / "paper" / f"{part.name}.tex").read_text() == part.latex()
    assert {path.name for path in (tmp_path / "paper").glob("values*.md")} == {"values.md"}
    if shutil.which("pdflatex"):
        compile_in(tmp_path / "paper")


def with_values(record, count):
    """The record with `count` values in each variant, all like its target."""
    variants = []
    for variant in record.variants:
        like = value_of(variant, TARGET)
        more = [like.model_copy(update={"name": f"reward/another_{i}"}) for i in range(count)]
        variants.append(variant.model_copy(update={"values": [*variant.values, *more]}))
    return record.model_copy(update={"variants": variants})


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_the_document_compiles(paper, tmp_path):
    for path in paper.iterdir():
        shutil.copy(path, tmp_path)
    compile_in(tmp_path)


def compile_in(folder):
    """Nothing runs out of its place."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
