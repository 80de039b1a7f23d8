"""Captions to token ids of a fixed length, and random masking of their words.

Two vocabularies: CLIP's own byte-pair encoding, with the mask token where IRRA puts it, and one trained on the train
captions for models that start from random weights. Shape letters: see ``pfcvr.model.batch``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import AddedToken, Tokenizer, processors, trainers
from torch import Tensor

from pfcvr.clip_vocabulary import (
    CLIP_VOCABULARY_SIZE,
    END,
    START,
    byte_letters,
    byte_pair_tokenizer,
    clip_bpe,
    merge_pairs,
    unescaped,
)
from pfcvr.config import ModelConfig
from pfcvr.errors import BackendError, CheckpointError, first_line
from pfcvr.hub import HUB_NAME, check_token, patiently
from pfcvr.model.batch import IGNORED_LABEL

MASK, PAD = "<|mask|>", "<|pad|>"
WORD_END = "</w>"  # of the last token of a word
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")  # of a CLIP checkpoint: the first, or the other two
CLIP_MASK_ID = 49405
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen words (official code, as BERT); the rest keep their id


@dataclass(frozen=True)
class TokenizedCaptions:
    """Token ids and which captions were too long for them."""

    ids: Int[Tensor, "B L"]
    truncated: Bool[Tensor, " B"]


class CaptionTokenizer:
    """Turns captions into rows of ``length`` ids: start, caption, end, padding.

    A caption that is too long keeps its first ``length - 1`` ids and the last one becomes the end token, so that every
    row has one. Text is HTML-unescaped here; the vocabulary's own rules do the rest (lower case, blanks).
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        # For Transformers' users of a saved model; here the ids are put together by hand.
        template = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(token, self._id_of(token)) for token in (START, END)]
        )
        tokenizer.post_processor = template
        tokenizer.encode_special_tokens = True  # a caption that spells one of them out is text like any other
        self.vocabulary_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.start_id, self.end_id, self.mask_id = (self._id_of(token) for token in (START, END, MASK))
        # CLIP pads with 0, which is also "!": the first end token, not the id, tells where padding begins.
        self.pad_id = tokenizer.token_to_id(PAD) or 0
        special = torch.tensor([self.pad_id, self.start_id, self.end_id, self.mask_id])
        self._is_word = torch.ones(self.vocabulary_size, dtype=torch.bool).index_fill(0, special, False)
        self._word_ids = torch.nonzero(self._is_word).squeeze(1)

    def _id_of(self, token: str) -> int:
        found: int | None = self.tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"the tokenizer has no token {token}, as CLIP's has; give the folder of a CLIP tokenizer"
            )
        return found

    def encode(self, texts: Sequence[str]) -> TokenizedCaptions:
        """Ids of each text and whether it was cut."""
        clean = [unescaped(text) for text in texts]
        encoded = self.tokenizer.encode_batch(clean, add_special_tokens=False)
        ids = torch.full((len(texts), self.length), self.pad_id, dtype=torch.long)
        truncated = torch.zeros(len(texts), dtype=torch.bool)
        for row, words in enumerate(encoded):
            tokens = [self.start_id, *words.ids, self.end_id]
            if len(tokens) > self.length:
                truncated[row] = True
                tokens = [*tokens[: self.length - 1], self.end_id]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return TokenizedCaptions(ids, truncated)

    def decode(self, ids: Int[Tensor, " L"]) -> str:
        """Text of one row up to its end token, without the start token."""
        row = ids.tolist()
        row = row[: row.index(self.end_id)] if self.end_id in row else row
        words = [token for token in row if token != self.start_id]
        text: str = self.tokenizer.decode(words, skip_special_tokens=False)
        return text.replace(WORD_END, " ").strip()

    def goes_on(self, token_id: int) -> bool:
        """Whether a token is a piece of a word that the next token continues."""
        token = str(self.tokenizer.id_to_token(token_id))
        return bool(self._is_word[token_id]) and not token.endswith(WORD_END)

    def words_in_pieces(self, text: str) -> list[str]:
        """The words of ``text`` that are no single entry of the vocabulary, in lower case, each once."""
        found, pieces = [], []
        for token in self.tokenizer.encode(unescaped(text), add_special_tokens=False).ids:
            pieces.append(token)
            if not self.goes_on(token):
                found += [self.decode(torch.tensor(pieces))] if len(pieces) > 1 else []
                pieces = []
        return list(dict.fromkeys(found))

    def mask_words(
        self, ids: Int[Tensor, "*B L"], ratio: float, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "*B L"], Int[Tensor, "*B L"]]:
        """Words masked for masked language modelling (IRRA, BERT), and their labels.

        Each word is chosen with probability ``ratio``; 80 % of the chosen become the mask token, 10 % a random word,
        10 % stay. Special tokens and padding are never chosen; where chance chooses none, the first word is masked.

        Returns:
            The ids after masking, and the original id where a word was chosen, ``IGNORED_LABEL`` elsewhere.
        """
        return self.mask_drawn_words(ids, ratio, torch.rand((3, *ids.shape), generator=generator))

    def mask_drawn_words(
        self, ids: Int[Tensor, "*B L"], ratio: float, draws: Float[Tensor, "3 *B L"]
    ) -> tuple[Int[Tensor, "*B L"], Int[Tensor, "*B L"]]:
        """``mask_words`` by uniform draws in [0, 1): whether a word is chosen, what becomes of it, and by which one it
        may be replaced."""
        choice, fate, substitute = draws
        word = self._is_word[ids]
        chosen = word & (choice < ratio)
        first_word = word & (word.cumsum(dim=-1) == 1) & ~chosen.any(dim=-1, keepdim=True)
        replacement = self._word_ids[(substitute * len(self._word_ids)).long()]
        masked = torch.where((chosen & (fate < MASKED_SHARE)) | first_word, self.mask_id, ids)
        randomised = chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)
        masked = torch.where(randomised, replacement, masked)
        return masked, torch.where(chosen | first_word, ids, IGNORED_LABEL)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which Transformers' AutoTokenizer reads as well."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.length,
            "bos_token": START,
            "eos_token": END,
            "mask_token": MASK,
            # CLIP's padding id is "!", which must not become a special token; after the end any token will do.
            "pad_token": PAD if self.tokenizer.token_to_id(PAD) is not None else END,
        }
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, length: int) -> "CaptionTokenizer":
        """Read what ``save`` wrote, or the tokenizer of a CLIP checkpoint, which is given a mask token if it has none.

        Raises:
            CheckpointError: the folder holds no tokenizer, or one without CLIP's start and end tokens.
        """
        if (folder / "tokenizer.json").is_file():
            description = _read_json(folder / "tokenizer.json")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            description = json.loads(byte_pair_tokenizer({}, []).to_str())
            description["model"] |= {
                "vocab": _read_json(folder / "vocab.json"),
                "merges": _read_merges(folder / "merges.txt"),
            }
        else:
            raise CheckpointError(
                f"{folder}: no tokenizer.json, nor vocab.json with merges.txt; give the folder of a CLIP tokenizer"
            )
        return cls(_with_mask_token(description, folder), length)


def clip_tokenizer(length: int = 77) -> CaptionTokenizer:
    """CLIP's vocabulary from the ``open_clip_torch`` package, so that no download is needed.

    Raises:
        BackendError: the package is not installed.
    """
    tokenizer = clip_bpe()
    if tokenizer is None:
        raise BackendError(
            "CLIP's vocabulary comes with the package 'open_clip_torch'; in the clone run: pip install -e '.[model]'"
        )
    description = json.loads(tokenizer.to_str())
    return CaptionTokenizer(_with_mask_token(description, Path("CLIP's vocabulary")), length)


def train_caption_tokenizer(texts: Sequence[str], vocabulary_size: int, length: int = 77) -> CaptionTokenizer:
    """A byte-pair vocabulary of at most ``vocabulary_size`` entries trained on ``texts`` (at least twice seen pairs).

    Frequent words become one token each; any other text still has ids, since single bytes are in the vocabulary. The
    same texts in the same order give the same vocabulary.
    """
    tokenizer = byte_pair_tokenizer({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        # Word-final letters are listed too: the trainer would number them by chance, and break ties by their numbers.
        special_tokens=[PAD, START, END, MASK, *(letter + WORD_END for letter in byte_letters())],
        initial_alphabet=byte_letters(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator([unescaped(text) for text in texts], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    tokenizer = byte_pair_tokenizer(trained["vocab"], [(left, right) for left, right in trained["merges"]])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (PAD, START, END, MASK)])
    return CaptionTokenizer(tokenizer, length)


def caption_tokenizer(config: ModelConfig, captions: Sequence[str]) -> CaptionTokenizer:
    """The tokenizer that ``config`` asks for; ``captions`` of the train split are used only to train a vocabulary.

    Raises:
        CheckpointError: the backbone's tokenizer cannot be read.
        HubError: the backbone is no folder here, and the Hub has none of that name or was not reached.
    """
    if config.vocabulary == "captions":
        return train_caption_tokenizer(captions, config.vocabulary_size, config.text_length)
    folder = _backbone_folder(config.backbone) if config.backbone else None
    if folder and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return CaptionTokenizer.load(folder, config.text_length)
    return clip_tokenizer(config.text_length)


def _backbone_folder(backbone: str) -> Path:
    """The folder ``backbone``, or one with what a checkpoint of that name on the Hub has of a tokenizer."""
    if Path(backbone).exists() or HUB_NAME.fullmatch(backbone) is None:
        return Path(backbone)
    from huggingface_hub import snapshot_download

    check_token(backbone)
    asked = f"{backbone}: no such folder here, and on the Hub"
    return Path(patiently(asked, lambda: snapshot_download(backbone, allow_patterns=list(TOKENIZER_FILES)), waits=()))


def _with_mask_token(description: dict[str, Any], source: Path) -> Tokenizer:
    """A tokenizer from its JSON description with a mask token and without a template that adds tokens by itself.

    CLIP's vocabulary gives up its last merge, so that the mask token takes id 49405 and the embedding matrix keeps its
    size (as IRRA does); any other vocabulary grows by one.
    """
    description = {**description, "post_processor": None, "truncation": None, "padding": None}
    try:
        vocabulary = description["model"]["vocab"]
        _make_room_for_mask(description["model"])
        tokenizer = Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # the library raises bare Exception for every malformed description
        raise CheckpointError(
            f"{source}: not a tokenizer description ({first_line(error)}); give the folder of a CLIP tokenizer"
        ) from None
    tokens = [AddedToken(token, special=True) for token in (START, END) if token in vocabulary]
    tokenizer.add_special_tokens([*tokens, AddedToken(MASK, special=True)])
    return tokenizer


def _make_room_for_mask(model: dict[str, Any]) -> None:
    """Raises ValueError where a merge makes what the vocabulary lacks, at which the library would panic."""
    vocabulary, merges = model["vocab"], model.get("merges", [])
    unknown = next((merge for merge in merges if _merged(merge) not in vocabulary), None)
    if unknown is not None:
        raise ValueError(f"the vocabulary lacks what the merge {unknown!r} makes")
    if len(vocabulary) == CLIP_VOCABULARY_SIZE and MASK not in vocabulary:
        replaced = next(entry for entry, index in vocabulary.items() if index == CLIP_MASK_ID)
        del vocabulary[replaced]
        vocabulary[MASK] = CLIP_MASK_ID
        model["merges"] = [merge for merge in merges if _merged(merge) != replaced]


def _merged(merge: Sequence[str] | str) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return merge_pairs([line for line in lines if line and not line.startswith("#version")])
    except ValueError as error:
        raise CheckpointError(f"{path}: expected two symbols on each line ({error}); copy the file again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}); copy the file again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}; copy the file again")
    return content
