"""A Grounding DINO of random weights, with a BERT vocabulary of its own; loads like any released one.

As a script: ``python grounding_dino.py FOLDER``.
"""

import string
import sys
from pathlib import Path

# The model knows these four by their places in BERT's vocabulary (modeling_grounding_dino.SPECIAL_TOKENS).
FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
# What is not here is spelled with the letters, so phrases have from one to many tokens.
WORDS = ("window", "wheel", "door", "mirror", "light", "roof", "car", "truck", "van", "bus", "side", "##light", "##s")
VOCABULARY = 1030


def make_grounding_dino(folder: Path, seed: int = 0) -> Path:
    """Write the model into ``folder`` (made if absent) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bert_vocabulary(folder / "vocab.txt")
    _write_processor(folder)
    _write_model(folder, seed)
    return folder


def write_bert_vocabulary(path: Path) -> None:
    """A BERT ``vocab.txt`` with the special tokens in their usual places."""
    tokens = {place: token for token, place in FIXED.items()}
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    free = (place for place in range(VOCABULARY) if place not in tokens)
    tokens |= dict(zip(free, [*WORDS, *letters], strict=False))
    path.write_text("\n".join(tokens.get(place, f"[unused{place}]") for place in range(VOCABULARY)) + "\n")


def _write_processor(folder: Path) -> None:
    from transformers import BertTokenizerFast, GroundingDinoImageProcessor, GroundingDinoProcessor

    vocabulary = {token: place for place, token in enumerate((folder / "vocab.txt").read_text().splitlines())}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=512)
    pictures = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)


def _write_model(folder: Path, seed: int) -> None:
    import torch
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    width = 32
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=96,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 2],
            window_size=3,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=512,
        ),
        d_model=width,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_feature_levels=4,
        disable_custom_kernels=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GroundingDinoForObjectDetection(config)
        # Fresh heads give every query the box of its place and a score near 1; these spread both.
        for head in model.bbox_embed:
            torch.nn.init.normal_(head.layers[-1].weight, std=30.0)
        torch.nn.init.normal_(model.model.decoder.layer_norm.weight, mean=0.15, std=0.02)
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_grounding_dino(Path(sys.argv[1]))
