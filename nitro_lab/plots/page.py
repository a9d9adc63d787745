"""Plain pages of HTML that need no other file: a table of text, pictures inside the page."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from nitro_lab.snapshots import replace_file

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 75em; }}
table {{ border-collapse: collapse; font-size: 0.85em; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.3em 0.6em; text-align: right; white-space: pre-line; }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 1em 0; }} img {{ max-width: 100%; image-rendering: pixelated; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_html(title: str, body: str, path: Path) -> None:
    """One page; `body` is HTML, the title is text."""
    page = PAGE.format(title=html.escape(title), body=body)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write_text(page, encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text, which scrolls by itself where the screen is narrow."""
    lines = [cells(head, "th"), *(cells(row, "td") for row in rows)]
    return '<div style="overflow-x: auto"><table>\n' + "\n".join(lines) + "\n</table></div>"


def cells(values: Sequence[str], tag: str) -> str:
    """A row of a table."""
    return f"<tr>{''.join(f'<{tag}>{html.escape(value)}</{tag}>' for value in values)}</tr>"


def picture(png: bytes, caption: str) -> str:
    """A PNG inside the page; the caption also says what is there to whoever cannot see it."""
    told, data = html.escape(caption), base64.b64encode(png).decode()
    return f'<figure><figcaption>{told}</figcaption><img alt="{told}" src="data:image/png;base64,{data}"></figure>\n'
