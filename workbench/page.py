"""The frame of a self-contained HTML page: its style is inside, and it asks the network for nothing."""

from __future__ import annotations

from html import escape

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#222}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0}td,th{border-bottom:1px solid #eee;font-weight:normal}
th{color:#555;border-bottom:1px solid #bbb}svg{margin:6px;vertical-align:top;max-width:100%;height:auto}
.wide{overflow-x:auto}.bad{color:#b00020;font-weight:600}.good{color:#00695c;font-weight:600}
.note{color:#666;font-size:13px}pre{font-size:12px;overflow-x:auto;background:#f7f7f7;padding:.6rem}
"""
# A page that is opened from a mail or an artifact store must not be able to load or send anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, body: str) -> str:
    """A complete document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )
