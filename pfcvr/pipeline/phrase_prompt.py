"""Phrases as one prompt of Grounding DINO, "window . wheel . roof .", and which of its tokens each phrase is.

A box belongs to a phrase by the places of the phrase's tokens. Decoded words cannot tell that: a phrase whose pieces
score unevenly comes back scrambled, and two phrases may share a word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pfcvr.errors import UsageError

SEPARATOR = " . "
CharacterSpans = list[tuple[int, int]]
"""For each token the characters [start, end) of the text that it stands for; special and unknown tokens have none."""
NO_CHARACTERS = (0, 0)


@dataclass(frozen=True)
class PhrasePrompt:
    """``text`` asks for the phrases numbered ``first`` and on; ``tokens[i]`` are the places of phrase first + i."""

    text: str
    first: int
    tokens: tuple[tuple[int, ...], ...]


def known_characters(tokenizer: Any, text: str) -> CharacterSpans:
    """The characters of ``text`` that each token of a fast ``tokenizer`` of Transformers knows."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [NO_CHARACTERS if token == tokenizer.unk_token_id else span for token, span in tokens]


def phrase_prompts(
    phrases: Sequence[str], spans_of: Callable[[str], CharacterSpans], most_tokens: int
) -> list[PhrasePrompt]:
    """As few prompts of at most ``most_tokens`` tokens as the phrases need, in their order.

    ``spans_of`` tokenizes a text, special tokens included. Raises UsageError for a phrase too long for any prompt, and
    for one without a known token: the unknown ones look the same in all phrases, and none of them counts.
    """
    prompts: list[PhrasePrompt] = []
    first = 0
    while first < len(phrases):
        last = first + 1
        while last < len(phrases) and len(spans_of(_joined(phrases[first : last + 1]))) <= most_tokens:
            last += 1
        prompts.append(_prompt(phrases, first, last, spans_of, most_tokens))
        first = last
    return prompts


def _prompt(
    phrases: Sequence[str], first: int, last: int, spans_of: Callable[[str], CharacterSpans], most_tokens: int
) -> PhrasePrompt:
    text = _joined(phrases[first:last])
    spans = spans_of(text)
    if len(spans) > most_tokens:
        raise UsageError(f"the phrase '{phrases[first]:.60}' has more than {most_tokens} tokens; shorten it")
    tokens = []
    start = 0
    for phrase in phrases[first:last]:
        end = start + len(phrase)
        own = tuple(place for place, (a, b) in enumerate(spans) if start <= a < b <= end)
        if not own:
            raise UsageError(f"the phrase '{phrase:.60}' has no token that the model knows; use other words")
        tokens.append(own)
        start = end + len(SEPARATOR)
    return PhrasePrompt(text, first, tuple(tokens))


def _joined(phrases: Sequence[str]) -> str:
    return SEPARATOR.join(phrases) + " ."
