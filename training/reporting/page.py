"""The frame of a report: one HTML document without scripts or outside parts, light or dark as the reader's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Fields = Mapping[str, Any]
"""JSON values of a file of the run."""

# Line colours are Okabe and Ito's, darkened or lightened until they stand out from the background; lines also differ
# by their dashes and bars by their chart, so that nothing is told by colour alone.
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1d20; --faint: #585d64; --edge: #d9dce0; --box: #f5f6f8;
  --c0: #0072b2; --c1: #c04f00; --c2: #007a5a; --c3: #a8487f; --c4: #5c6066; --c5: #8a6d00; --warn: #9a3d00; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8eaed; --faint: #a3a9b1; --edge: #363a40;
  --box: #1f2226; --c0: #56b4e9; --c1: #f08a3c; --c2: #2fc49a; --c3: #dd8fbe; --c4: #b5bac1; --c5: #e3c53a;
  --warn: #ffb27a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 60px; max-width: 1080px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 10px; padding-top: 10px; border-top: 1px solid var(--edge); }
p { margin: 6px 0 12px; max-width: 75ch; }
.note { color: var(--faint); }
.warn { color: var(--warn); font-weight: 600; }
.verdict { font-size: 18px; font-weight: 600; }
.loud { border: 2px solid var(--warn); border-radius: 6px; padding: 10px 14px; font-weight: 600; max-width: none; }
.beside { display: flex; flex-wrap: wrap; gap: 20px 36px; align-items: flex-start; }
.beside > * { flex: 1 1 min-content; min-width: min(100%, 400px); }
.photos { display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 16px; }
figure { margin: 0; width: 128px; font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; }
figure img { display: block; max-width: 128px; height: 128px; object-fit: contain; object-position: left bottom;
  margin-bottom: 4px; }
.charts { margin-bottom: 14px; display: flex; flex-wrap: wrap; gap: 20px 28px; align-items: flex-start; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
caption { text-align: left; color: var(--faint); padding-bottom: 4px; }
th, td { padding: 4px 12px 4px 0; text-align: right; border-bottom: 1px solid var(--edge); vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
.notes td:last-child, .notes th:last-child { text-align: left; }
.pairs td:nth-child(2), .pairs th:nth-child(2) { text-align: left; }
.text td, .text th { text-align: left; overflow-wrap: anywhere; }
.text th { white-space: nowrap; }
.lead td, .lead th { font-weight: 700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; background: var(--box);
  padding: 12px 14px; border-radius: 6px; margin: 0 0 16px; font-size: 14px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: 10px 0; }
svg { max-width: 100%; height: auto; stroke-linejoin: round; }
.wide > svg { max-width: none; }
@media print { body { max-width: none; } svg { break-inside: avoid; } }
"""


def number(value: float) -> str:
    """A value in four digits at most."""
    return f"{value:.4g}"


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The document.

    Args:
        title: text.
        subtitle: text.
        sections: HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(subtitle)}</p>\n'
        f"{chr(10).join(sections)}\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading (text) and what is below it (HTML)."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{chr(10).join(parts)}\n</section>"


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of text, with a CSS class."""
    return f'<p class="{escape(style)}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", lead: bool = False, style: str = ""
) -> str:
    """A table of text cells, the first of each row its heading.

    Args:
        head: headings of the columns.
        rows: cells.
        caption: above the table.
        lead: sets off the first row.
        style: `text` where all cells are text rather than numbers, `notes` where those of the last column are.
    """
    lines = [f'<div class="wide"><table class="{escape(style)}">' if style else '<div class="wide"><table>']
    lines += [f"<caption>{escape(caption)}</caption>"] if caption else []
    lines.append("<tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr>")
    for place, (first, *rest) in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(
            f'<tr{" class=lead" if lead and place == 0 else ""}><th scope="row">{escape(first)}</th>{cells}</tr>'
        )
    return "\n".join([*lines, "</table></div>"])


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Terms and what they are, both text."""
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in entries) + "</dl>"


def beside(*parts: str) -> str:
    """HTML side by side where there is room."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def charts(*parts: str) -> str:
    """Charts in as many columns as fit."""
    return f'<div class="charts">{"".join(parts)}</div>'
