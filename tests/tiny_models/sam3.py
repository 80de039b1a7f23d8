"""A SAM 3 of about a quarter of a million random weights; loads like the released one.

As a script: ``python sam3.py FOLDER``.
"""

import sys
from pathlib import Path

SIDE, PATCH, WIDTH = 56, 7, 32


def make_sam3(folder: Path, seed: int = 0) -> Path:
    """Write the model into ``folder`` (made if absent) and return it. Pictures become 56 x 56 pixels."""
    import torch
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer()
    small = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH, "dropout": 0.0}
    side = SIDE // PATCH
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": PATCH,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": SIDE // 2,
            },
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[4 * side, 4 * side], [2 * side, 2 * side], [side, side]],
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        geometry_encoder_config=small | {"num_layers": 1},
        detr_encoder_config=small | {"num_layers": 1},
        detr_decoder_config=small | {"num_layers": 1, "num_queries": 10},
        mask_decoder_config={"hidden_size": WIDTH, "num_attention_heads": 2, "num_upsampling_stages": 2},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam3Model(config)
        # A fresh decoder gives every query the same box and score; these spread both.
        torch.nn.init.normal_(model.detr_decoder.reference_points.weight)
        torch.nn.init.normal_(model.dot_product_scoring.query_proj.weight, std=1.0)
        torch.nn.init.normal_(model.dot_product_scoring.text_proj.weight, std=1.0)
        torch.nn.init.constant_(model.detr_decoder.presence_head.layer3.bias, 3.0)
    model.save_pretrained(folder)
    pictures = Sam3ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE // 4, "width": SIDE // 4}
    )
    Sam3Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


def clip_tokenizer():  # type: ignore[no-untyped-def]
    """A CLIP tokenizer that knows letters and no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizerFast

    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(
        vocab={token: place for place, token in enumerate(vocabulary)}, merges=[], model_max_length=32
    )


if __name__ == "__main__":
    make_sam3(Path(sys.argv[1]))
