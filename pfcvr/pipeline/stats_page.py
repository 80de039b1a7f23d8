"""Statistics as one HTML page with plots, which needs no network: everything is inside, and every text is escaped."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfcvr.errors import WorkspaceError
from pfcvr.files import atomic_write
from pfcvr.pipeline.part_report import views_text
from pfcvr.pipeline.stats_text import NOT_RUN, caption_sentences, people_sentence, shown
from pfcvr.records import PARTS

if TYPE_CHECKING:
    import pandas as pd

    from pfcvr.pipeline.stats import Statistics

# Nothing may be loaded and nothing may run, whatever a caption says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } pre { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #222; } .missing { color: #777; }
"""
BAR_HEIGHT, BAR_GAP, NAME_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 16, 6, 190, 430, 90
LONGEST_NAME = 28
BARS_SHOWN = 30
BAR_COLOUR = "#0072b2"


def write_page(statistics: "Statistics", path: Path) -> None:
    """Write the page to ``path``, whole or not at all; raises WorkspaceError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(statistics_page(statistics).encode())
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); give another --html FILE") from None


def statistics_page(statistics: "Statistics") -> str:
    """The page as text."""
    title = f"Statistics of {escape(statistics.workspace.name)}"
    sections = "\n".join(f"<h2>{escape(heading)}</h2>\n{body}" for heading, body in _sections(statistics))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{sections}\n</body>\n</html>\n"
    )


def _sections(statistics: "Statistics") -> Iterator[tuple[str, str]]:
    yield "Table II: beside the published data sets", _table(statistics.overview().map(shown))
    yield (
        "Table I: identities by number of image-caption pairs",
        _table(statistics.pairs().map(shown)) if statistics.captions is not None else _missing(NOT_RUN),
    )
    yield "Edited by people", f"<p>{escape(people_sentence(statistics))}</p>"
    yield from _caption_sections(statistics)
    yield "Images per identity", _plot({str(n): count for n, count in statistics.images_per_vehicle.items()})
    yield "Images per camera", _plot(statistics.images_per_camera, "the source names no camera")
    for who, by_name in statistics.attributes.items():
        for name, values in by_name.items():
            yield f"Images by {name}, from {who}", _plot(values, f"no {name} is known from {who}")
    yield from _part_sections(statistics)


def _caption_sections(statistics: "Statistics") -> Iterator[tuple[str, str]]:
    yield "Captions", "".join(f"<p>{escape(sentence)}</p>" for sentence in caption_sentences(statistics))
    if statistics.captions is None:
        return
    yield "Words per caption", _plot(statistics.words)
    if statistics.tokens is not None:
        yield f"CLIP tokens per caption (limit {statistics.tokens['limit']})", _plot(statistics.tokens["histogram"])
    if statistics.vocabulary is not None:
        yield "Commonest words", _plot(statistics.vocabulary["commonest"])
    twins = statistics.distinctiveness
    if twins is not None and twins["compared"]:
        tenths = {f"{place / 10:.1f} to {(place + 1) / 10:.1f}": n for place, n in enumerate(twins["histogram"])}
        yield "Captions by similarity to the nearest one of another vehicle", _plot(tenths)
        rows = [(pair["image_id"], pair["other_image_id"], f"{pair['similarity']:.3f}") for pair in twins["closest"]]
        yield "Closest captions of different vehicles", _rows(("image", "other image", "similarity"), rows)


def _part_sections(statistics: "Statistics") -> Iterator[tuple[str, str]]:
    parts = statistics.parts
    if parts is None:
        yield "Parts", _missing(NOT_RUN)
        return
    yield "Images on which a part is seen, in percent", _plot({p: round(100 * parts["coverage"][p], 1) for p in PARTS})
    yield "Part instances", _plot(parts["instances"])
    yield "Parts by view, in percent", f"<pre>{escape(views_text(parts))}</pre>"
    if parts["flags"]:
        yield "Flagged parts", _plot(parts["flags"])


def _table(frame: "pd.DataFrame") -> str:
    rows = [(str(name), *map(str, row)) for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return _rows(("", *map(str, frame.columns)), rows)


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"


def _missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def _plot(values: Mapping[str, Any], when_empty: str = "nothing to count") -> str:
    """Horizontal bars as SVG, at most BARS_SHOWN of them."""
    if not values or max(values.values()) <= 0:
        return _missing(when_empty)
    drawn = list(values.items())[:BARS_SHOWN]
    full = max(value for _, value in drawn) or 1
    step = BAR_HEIGHT + BAR_GAP
    height, width = len(drawn) * step + BAR_GAP, NAME_WIDTH + PLOT_WIDTH + VALUE_WIDTH
    pieces = []
    for place, (name, value) in enumerate(drawn):
        y, length = BAR_GAP + place * step, PLOT_WIDTH * value / full
        label = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        pieces.append(
            f'<text x="{NAME_WIDTH - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{NAME_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{BAR_COLOUR}"/>'
            f'<text x="{NAME_WIDTH + length + 6:.1f}" y="{y + 13}">{value:,}</text>'
        )
    more = _missing(f"and {len(values) - BARS_SHOWN:,} more") if len(values) > BARS_SHOWN else ""
    return f'<svg width="{width}" height="{height}" role="img">{"".join(pieces)}</svg>{more}'
