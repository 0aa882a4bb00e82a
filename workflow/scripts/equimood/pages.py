"""Pages of the report: one HTML file each, which needs nothing else and runs nothing."""

import re

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

_PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
p, li { max-width: 46rem; }
table { display: block; overflow-x: auto; border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
</style>
</head>
<body>
{{ body }}
</body>
</html>
""")  # noqa: E501
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def page(title: str, body: Markup) -> str:
    """Return a page; ``body`` is HTML in which all text of the user's is escaped."""
    return _PAGE.render(title=title, body=body)


def from_markdown(markdown: str, title: str) -> str:
    """Return Markdown as a page; HTML in it is shown as it is written."""
    return page(title, Markup(_MARKDOWN.render(markdown)))


def as_written(text: object) -> str:
    """Return a user's name so that nothing in it is read as Markdown, rST or Jinja."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|<>~&%:-])", r"\\\1", " ".join(str(text).split()))
