"""A Qwen3-VL of about 0.4 million random weights, with tokenizer, chat template and processors of its own.

``AutoProcessor``, ``AutoModelForImageTextToText`` and vLLM load the folder like any released one. As a script:
``python qwen3_vl.py FOLDER``.
"""

import json
import sys
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 640
SPREAD = 0.3  # of the random weights; with the usual 0.02 an answer hardly depends on the picture
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for item in message.content %}"
    "{%- if item.type == 'text' %}{{- item.text }}"
    "{%- elif item.type in ('image', 'image_url') %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SENTENCES = (
    "A white sedan seen from the front left with dark tinted windows and silver wheels with five spokes.",
    "A blue pickup truck with roof rails, round headlights, black mirrors and a chrome grille above the bumper.",
    "A red SUV seen from the rear with tall tail lights, a sunroof, four doors and body coloured handles.",
    '{"color": "gray", "type": "minivan", "viewpoint": "rear", "parts": {"roof": "plain roof"}, "caption": "A van."}',
)


def make_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """Write the model into ``folder`` (made if absent) and return it. Pictures have 1 to 1024 vision tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder)
    _write_processors(folder)
    _write_model(folder, ids, seed)
    return folder


def _write_tokenizer(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=8192,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} | {"": len(tokenizer)}


def _write_processors(folder: Path) -> None:
    shared = {
        "size": {"shortest_edge": 32 * 32, "longest_edge": 1024 * 32 * 32},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    names = {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(shared | names, indent=2))
    names = {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(shared | names, indent=2))


def _write_model(folder: Path, ids: dict[str, int], seed: int) -> None:
    import torch
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    size = 64
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": ids[""],
            "hidden_size": size,
            "intermediate_size": 2 * size,
            "initializer_range": SPREAD,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": size,
            "intermediate_size": 2 * size,
            "initializer_range": SPREAD,
            "num_heads": 2,
            "out_hidden_size": size,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"]
    )
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_qwen3_vl(Path(sys.argv[1]))
