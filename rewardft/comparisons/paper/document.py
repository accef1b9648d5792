"""A LaTeX document that holds all figures and tables, and a page that says what each file is."""

from __future__ import annotations

from collections.abc import Sequence

from rewardft.comparisons.paper.paper_table import PaperTable, tex
from rewardft.comparisons.report.markdown import code, escape
from rewardft.comparisons.report.sentences import lead
from rewardft.contracts.records import ComparisonRecord

HEAD = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
"""


def document(
    record: ComparisonRecord, drawn: Sequence[tuple[str, str]], tables: Sequence[PaperTable]
) -> str:
    """A whole document; its floats are to be copied into a paper."""
    parts = [rf"\section*{{{tex(record.title)}}}", tex(" ".join(lead(record)))]
    parts += [
        rf"""\begin{{figure}}[t]
\centering
\includegraphics[width=\columnwidth]{{{name}.pdf}}
\caption{{{tex(caption)}}}
\label{{fig:{name}}}
\end{{figure}}"""
        for name, caption in drawn
    ]
    # Over both columns: intervals are long.
    parts += [
        rf"""\begin{{table*}}[t]
\centering
\caption{{{tex(table.caption)}}}
\label{{tab:{table.name}}}
\footnotesize
\input{{{table.name}.tex}}
\end{{table*}}"""
        for whole in tables
        for table in whole.parts()
    ]
    return HEAD + "\n\n".join(parts) + "\n\n\\end{document}\n"


def captions(
    record: ComparisonRecord, drawn: Sequence[tuple[str, str]], tables: Sequence[PaperTable]
) -> str:
    """The page: files with their captions, what limits the results, how they were made."""
    files = [f"* `{name}.pdf`, `.svg`, `.png`: {escape(caption)}" for name, caption in drawn]
    files += [f"* {names_of(table)}: {escape(table.caption)}" for table in tables]
    files.append("* `paper.tex`: a document that holds them all; `pdflatex paper.tex`")
    notes = [f"* {escape(note)}" for note in record.notes] or ["* none"]
    parts = [
        f"# {escape(record.title)}",
        escape(" ".join(lead(record))),
        "\n".join(files),
        "A hollow mark, and † in tables, is a variant that raised an alarm.",
        "## Notes\n\n" + "\n".join(notes),
        "## Made by\n\n" + code(record.command),
    ]
    return "\n\n".join(parts) + "\n"


def names_of(table: PaperTable) -> str:
    """Its files: one of LaTeX, or one for each part, and one of Markdown."""
    first, *others = [part.name for part in table.parts()]
    return ", ".join([f"`{first}.tex`", *(f"`{name}.tex`" for name in others), "`.md`"])
