"""What a reader of the package's own README would write, run by an environment that has groundingdino-py.

``python direct_groundingdino.py BERT CHECKPOINT PHRASES THRESHOLD IMAGE...`` prints, for each image, the boxes
(x0, y0, x1, y1 in pixels), their scores, and the words by which the package names them.
"""

import json
import sys
import tempfile
from pathlib import Path

import groundingdino.config
import torch
from groundingdino.util.inference import load_image, load_model, predict
from torchvision.ops import box_convert


def main(bert: str, checkpoint: str, caption: str, threshold: float, images: list[str]) -> None:
    packaged = Path(groundingdino.config.__file__).with_name("GroundingDINO_SwinT_OGC.py").read_text()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.py"
        config.write_text(packaged.replace('"bert-base-uncased"', repr(bert)))
        model = load_model(str(config), checkpoint, device="cpu")
    answers = []
    for path in images:
        source, pixels = load_image(path)
        boxes, scores, words = predict(model, pixels, caption, threshold, threshold, device="cpu")
        height, width = source.shape[:2]
        corners = box_convert(boxes * torch.tensor([width, height, width, height]), "cxcywh", "xyxy")
        answers.append({"boxes": corners.tolist(), "scores": scores.tolist(), "words": words})
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5:])
