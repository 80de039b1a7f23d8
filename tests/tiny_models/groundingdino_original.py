"""Random weights for the original ``groundingdino-py``, to be run by an environment that has it.

``python groundingdino_original.py FOLDER`` writes ``FOLDER/bert`` (a BERT of one small layer with a tokenizer of its
own) and ``FOLDER/groundingdino.pth``. The rest has the size of the packaged Swin-T configuration: the package takes no
other.
"""

import json
import sys
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",", "-"]
CONFIGURATION = "GroundingDINO_SwinT_OGC"


def make_bert(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = [*TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "window", "wheel", "door", "roof", "car"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)


def make_checkpoint(bert: Path, path: Path) -> None:
    import groundingdino.config
    import torch
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig

    config = SLConfig.fromfile(str(Path(groundingdino.config.__file__).with_name(f"{CONFIGURATION}.py")))
    config.device, config.text_encoder_type = "cpu", str(bert)
    torch.manual_seed(1)
    model = build_model(config)
    with torch.no_grad():
        # The last layer of the box head starts at zero, which would give every query its anchor.
        for layer in model.bbox_embed[0].layers:
            layer.weight.normal_(0, 0.05)
        # Scores then spread over (0, 1) instead of all being 1.
        model.transformer.decoder.norm.weight.mul_(0.1)
    torch.save({"model": model.state_dict()}, path)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_bert(target / "bert")
    make_checkpoint(target / "bert", target / "groundingdino.pth")
    print(json.dumps({"bert": str(target / "bert"), "checkpoint": str(target / "groundingdino.pth")}))
