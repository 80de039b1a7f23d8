"""CLIP's byte-pair vocabulary and rules, without torch: token counts for the data half, tokenizers for the model half.

The vocabulary file ships inside the ``open_clip_torch`` package, which is looked up but never imported.
"""

import gzip
import html
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_VOCABULARY_SIZE = 49408
CLIP_LENGTH = 77  # tokens of a text with start and end (paper, section V-B)
WORD_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_bpe() -> Tokenizer | None:
    """CLIP's tokenizer without start and end tokens; None when ``open_clip_torch`` is not installed."""
    path = clip_vocabulary_file()
    if path is None:
        return None
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    letters = byte_letters()
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    # The first line is a title; the merges after CLIP's vocabulary size was reached are not part of it.
    merges = merge_pairs(lines[1 : CLIP_VOCABULARY_SIZE - len(symbols) - 2 + 1])
    entries = [*symbols, *(left + right for left, right in merges), START, END]
    return byte_pair_tokenizer({entry: index for index, entry in enumerate(entries)}, merges)


def clip_vocabulary_file() -> Path | None:
    """The file in the ``open_clip_torch`` package, or None when that is not installed."""
    package = find_spec("open_clip")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, start and end included: what has to fit into ``CLIP_LENGTH``."""
    encoded = tokenizer.encode_batch([unescaped(text) for text in texts], add_special_tokens=False)
    return [len(words.ids) + 2 for words in encoded]


def unescaped(text: str) -> str:
    """``text`` without HTML escapes, as CLIP's own cleaning has it (twice, for escapes of escapes)."""
    return html.unescape(html.unescape(text))


def merge_pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Each line of a merges file as its two symbols."""
    return [(left, right) for left, right in (line.split() for line in lines)]


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order: printable bytes first, then the others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def byte_pair_tokenizer(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's rules: NFC, single blanks, lower case, words split by pattern, bytes as letters, ``</w>`` ends a word."""
    model = models.BPE(vocab=vocabulary, merges=list(merges), end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
