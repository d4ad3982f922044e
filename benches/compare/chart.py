"""A row for each model, and in each column a dot on a logarithmic axis."""

import math
from html import escape

ROW, TOP, LABELS, PANEL, GAP = 26, 66, 340, 160, 84
# In the middle of dark and light: it has no background, and pages have either.
STYLE = """
  text { font: 13px Helvetica, Arial, sans-serif; fill: #7d8590 }
  .name { text-anchor: end } .note { font-size: 11px }
  .axis { font-size: 11px; text-anchor: middle }
  .head, text.ours { font-weight: bold }
  .grid { stroke: #7d8590; stroke-opacity: 0.3 }
  .ours { fill: #2f81f7 } .rival { fill: #d4652f }"""


def chart(title, panels, rows):
    """An SVG with a column for each panel `(heading, unit)`. A row is its name, its kind
    (`ours` or `rival`) and for each panel a value and its label, or None and why."""
    width = LABELS + len(panels) * (PANEL + GAP) + 10
    height = TOP + ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}\n  </style>",
    ]
    for at, (name, kind, _) in enumerate(rows):
        parts.append(
            f'  <text class="name {kind}" x="{LABELS - 14}" y="{middle(at) + 4}">{escape(name)}</text>'
        )
    for number, (heading, unit) in enumerate(panels):
        left = LABELS + number * (PANEL + GAP)
        parts += panel(left, heading, unit, [(kind, cells[number]) for _, kind, cells in rows])
    return "\n".join([*parts, "</svg>", ""])


def panel(left, heading, unit, cells):
    values = [value for _, (value, _) in cells if value]
    low, high = (
        (decade(min(values), math.floor), decade(max(values), math.ceil)) if values else (0, 1)
    )
    high = max(high, low + 1)
    place = lambda value: left + PANEL * (math.log10(value) - low) / (high - low)
    bottom = TOP + ROW * len(cells)
    yield f'  <text class="head" x="{left}" y="22">{escape(heading)}</text>'
    yield f'  <text class="note" x="{left}" y="40">{escape(unit)}</text>'
    step = math.ceil((high - low) / 4)
    for exponent in range(low, high + 1, step):
        x = round(place(10.0**exponent), 1)
        yield f'  <line class="grid" x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{bottom}"/>'
        yield f'  <text class="axis" x="{x}" y="{bottom + 16}">{power(exponent)}</text>'
    for at, (kind, (value, label)) in enumerate(cells):
        x = round(place(value), 1) if value else left - 9
        if value:
            yield f'  <circle class="{kind}" cx="{x}" cy="{middle(at)}" r="5"/>'
        yield f'  <text class="note" x="{x + 9}" y="{middle(at) + 4}">{escape(label)}</text>'


def middle(row):
    return TOP + ROW * row + ROW // 2


def decade(value, toward):
    return int(toward(math.log10(value)))


def power(exponent):
    return f"{10**exponent:,}" if 0 <= exponent <= 4 else f"{10.0**exponent:g}"
