"""Statistics for the terminal: tables and bars."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pfcvr.pipeline.part_report import report_text, views_text
from pfcvr.wording import amount

if TYPE_CHECKING:
    from pfcvr.pipeline.stats import Statistics

BAR_WIDTH = 40
VALUES_SHOWN = 15
NOT_RUN = "not run"
ABSENT = "-"


def statistics_text(statistics: "Statistics") -> str:
    """All tables, one below the other; of a stage that was not run it says so."""
    return "\n\n".join(f"{title}\n{body}" for title, body in _sections(statistics))


def shown(value: Any) -> str:
    """A number of a table as people read it."""
    if value is None:
        return NOT_RUN
    if value != value:  # NaN: the published tables have no such row
        return ABSENT
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"


def people_sentence(statistics: "Statistics") -> str:
    """How much of the data set people have looked at."""
    people, images = statistics.people, statistics.images["all"]
    if people is None:
        return "no edit by people was merged"
    return (
        f"{people['images']:,} of {amount(images, 'image')} ({people['images'] / images:.1%}): "
        f"captions of {people['captions']:,}, parts of {people['parts']:,}"
    )


def caption_sentences(statistics: "Statistics") -> list[str]:
    """Vocabulary, truncation and distinctiveness in a sentence each."""
    if statistics.captions is None:
        return [NOT_RUN]
    sentences = []
    vocabulary, tokens, twins = statistics.vocabulary, statistics.tokens, statistics.distinctiveness
    if vocabulary is not None:
        sentences.append(f"{vocabulary['words']:,} different words, {vocabulary['used_once']:,} of them used once")
    if tokens is None:
        sentences.append("tokens were not counted; for CLIP's vocabulary, in the clone run: pip install -e '.[model]'")
    else:
        sentences.append(
            f"{tokens['mean']:,} CLIP tokens a caption, at most {tokens['most']:,}; cut at {tokens['limit']}: "
            f"{amount(tokens['truncated'], 'caption')} ({tokens['truncated_share']:.1%})"
        )
    if twins is not None:
        sentences.append(
            f"{amount(twins['identical'], 'caption')} ({twins['identical_share']:.1%}) with the very words of one of "
            "another vehicle"
        )
        if twins["compared"]:
            sentences.append(
                f"{amount(twins['compared'], 'caption')} compared, {twins['very_close']:,} of them "
                f"({twins['very_close_share']:.1%}) very close to one of another vehicle; median similarity "
                f"{twins['median_similarity']:.2f}"
            )
    return sentences


def bars(values: Mapping[str, float]) -> str:
    """A line for each value with a bar as long as its share of the largest."""
    full = max(values.values())
    name_width = max(map(len, values))
    value_width = max(len(f"{value:,}") for value in values.values())
    return "\n".join(
        f"{name:>{name_width}}  {value:>{value_width},}  {'#' * round(BAR_WIDTH * value / full)}".rstrip()
        for name, value in values.items()
    )


def _sections(statistics: "Statistics") -> Iterator[tuple[str, str]]:
    yield f"Table II: {statistics.workspace}", statistics.overview().map(shown).to_string()
    pairs = statistics.pairs().to_string() if statistics.captions is not None else NOT_RUN
    yield "Table I: identities by number of image-caption pairs", pairs
    yield "Captions", "\n".join(caption_sentences(statistics))
    if statistics.words:
        yield "Words per caption", bars(statistics.words)
    yield "Images per identity", bars(_named(statistics.images_per_vehicle))
    if statistics.images_per_camera:
        yield "Images per camera", _first(statistics.images_per_camera)
    for who, by_name in statistics.attributes.items():
        for name, values in by_name.items():
            if values:
                yield f"Images by {name}, as {who} say" + ("s" if who == "source" else ""), _first(values)
    if statistics.parts is None:
        yield "Parts", NOT_RUN
    else:
        yield "Images on which a part is seen, in percent", views_text(statistics.parts)
        yield "Parts", report_text(statistics.parts)
    yield "Edited by people", people_sentence(statistics)


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): count for number, count in counts.items()}


def _first(values: Mapping[str, int]) -> str:
    """The commonest values as bars, and how many more there are."""
    listed = dict(list(values.items())[:VALUES_SHOWN])
    more = f"\n... and {len(values) - VALUES_SHOWN:,} more, see --json" if len(values) > VALUES_SHOWN else ""
    return bars(listed) + more
