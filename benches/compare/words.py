"""Figures as people read them."""

from textwrap import wrap

NOTHING = "–"


def seconds(value):
    if value is None:
        return NOTHING
    return f"{value * 1000:,.3g} ms" if value < 1 else f"{rounded(value)} s"


def ratio(value, other):
    """How many times the other a value is."""
    if value is None or not other:
        return NOTHING
    return rounded(value / other)


def rounded(value):
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def scientific(value):
    """Two digits, as in 1.9e-6."""
    if value == 0 or value >= 0.001:
        return f"{value:.2g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def mebibytes(value):
    return f"{value / 2**20:,.0f} MiB"


def bytes_(value):
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value / 1e3:.0f} kB"


def paragraph(text, first="", others=""):
    """Lines of a text, however it was broken before, each with its beginning."""
    return wrap(
        " ".join(text.split()),
        88,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def table(headings, rows):
    """Lines of a table, figures to the right."""
    yield row(headings)
    yield "|---|" + "---:|" * (len(headings) - 1)
    yield from map(row, rows)


def row(cells):
    return "| " + " | ".join(cells) + " |"
