"""Two SAMs of random weights: Transformers' in a folder, and the original package's as a .pth checkpoint.

As a script: ``python sam.py FOLDER`` or ``python sam.py FILE.pth``.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

SIDE, PATCH, WIDTH, PROMPT_WIDTH = 64, 8, 32, 32


def make_sam(folder: Path, seed: int = 0) -> Path:
    """Write a Transformers model into ``folder`` (made if absent) and return it. Pictures become 64 x 64 pixels."""
    import torch
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "output_channels": PROMPT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "mlp_dim": 2 * WIDTH,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": PROMPT_WIDTH // 2,
            "initializer_range": 0.1,
        },
        prompt_encoder_config={
            "hidden_size": PROMPT_WIDTH,
            "image_size": SIDE,
            "patch_size": PATCH,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": PROMPT_WIDTH,
            "mlp_dim": 2 * PROMPT_WIDTH,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": PROMPT_WIDTH,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SamModel(config)
    model.save_pretrained(folder)
    pictures = SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 4},
        mask_pad_size={"height": SIDE // 4, "width": SIDE // 4},
    )
    SamProcessor(pictures).save_pretrained(folder)
    return folder


def make_segment_anything(path: Path, seed: int = 0) -> Path:
    """Save a ``Sam`` made of the original package's modules as the .pth checkpoint ``path`` and return it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = original_sam()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(sam.state_dict(), path)
    return path


def original_sam() -> Any:
    """A small ``segment_anything.modeling.Sam``, weights drawn from torch's generator."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from torch import nn

    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        out_chans=PROMPT_WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    for parameter in (encoder.pos_embed, *(p for n, p in encoder.named_parameters() if "rel_pos" in n)):
        nn.init.normal_(parameter, std=0.1)
    prompts = PromptEncoder(
        embed_dim=PROMPT_WIDTH,
        image_embedding_size=(SIDE // PATCH, SIDE // PATCH),
        input_image_size=(SIDE, SIDE),
        mask_in_chans=4,
    )
    decoder = MaskDecoder(
        transformer_dim=PROMPT_WIDTH,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, num_heads=8, mlp_dim=2 * PROMPT_WIDTH),
        iou_head_depth=3,
        iou_head_hidden_dim=PROMPT_WIDTH,
    )
    return Sam(encoder, prompts, decoder).eval()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (make_segment_anything if target.suffix == ".pth" else make_sam)(target)
