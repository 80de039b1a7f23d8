"""Small tables for people: Markdown with aligned columns, which also reads well in a terminal."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned to the left, the others to the right."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (titles, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(titles))]
    rule = [("-" * width if column == 0 else "-" * (width - 1) + ":") for column, width in enumerate(widths)]
    return "\n".join(_line(row, widths) for row in (cells[0], rule, *cells[1:]))


def measured(mean: float, deviation: float | None = None) -> str:
    """A percentage, with its standard deviation where there is one."""
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def shares(figures: dict[str, float], names: Iterable[str]) -> list[str]:
    """The percentages called ``names``; empty where there is none."""
    return [f"{figures[name]:.1f}" if name in figures else "" for name in names]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]) + " |"
