"""Run the released PFCVR data set and collate code over an export of form ``official``; not part of the test suite.

    python tests/official_loader_check.py CHECKOUT EXPORT [--copies] [--batches 3]

CHECKOUT is the folder of the released code that holds its package ``datasets``; EXPORT is what ``pfcvr-data export
--format official`` wrote. A process of its own imports that package, which has the name of a Hugging Face library,
builds the loaders as the released training does, draws batches of train rows, gallery and queries, compares the counts
with those of the export's ``pfcvr.json``, and prints counts, keys and shapes as one JSON object. The checkout needs
CLIP's ``data/bpe_simple_vocab_16e6.txt.gz``, which it does not ship, and Python packages that this project does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = "T2I_VeRi_new"

INSIDE = """
import argparse, json, sys
checkout, root, copies, batches = sys.argv[1], sys.argv[2], sys.argv[3] == "1", int(sys.argv[4])
sys.path.insert(0, checkout)
from datasets.build import build_dataloader

args = argparse.Namespace(
    dataset_name="T2I_VeRi_new", root_dir=root, num_workers=0, training=True, batch_size=4, test_batch_size=4,
    img_size=(384, 384), img_aug=False, augmentation=copies, text_length=77, vocab_size=49408, MLM=True, MIM=True,
    sampler="random", num_instance=2, distributed=False, val_dataset="test", loss_names="sdm+id+mlm+mim",
    mask_ratio=0.25, stride_size=16, task_names=["sdm", "id", "mlm", "mim"],
)
train, images, texts, classes = build_dataloader(args)

def shape(value):
    if hasattr(value, "shape"):
        return [str(value.dtype), list(value.shape)]
    return [type(value).__name__, len(value)] if hasattr(value, "__len__") else type(value).__name__

def drawn(loader):
    found = []
    for number, batch in enumerate(loader):
        if number == batches:
            break
        named = batch.items() if isinstance(batch, dict) else enumerate(batch)
        found.append({key: shape(value) for key, value in named})
    return found

print("RESULT " + json.dumps({
    "counts": {
        "train_rows": len(train.dataset), "identities": classes,
        "gallery": len(images.dataset), "queries": len(texts.dataset),
    },
    "train": drawn(train), "gallery": drawn(images), "queries": drawn(texts),
}))
"""


def expected_counts(export: Path) -> dict[str, int]:
    """What the manifest says: a train row is a caption, and ``val`` is tested on where no image is of ``test``."""
    splits = json.loads((export / "pfcvr.json").read_bytes())["splits"]
    train, tested = splits["train"], splits.get("test") or splits["val"]
    return {
        "train_rows": train["captions"],
        "identities": train["vehicles"],
        "gallery": tested["images"],
        "queries": tested["captions"],
    }


def main() -> int:
    """Exit code 0 when the released code got through and counts as the export does, else 1 with what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder with the released package datasets")
    parser.add_argument("export", type=Path, help="export of form official")
    parser.add_argument("--copies", action="store_true", help="the export was made with --copies")
    parser.add_argument("--batches", type=int, default=3)
    options = parser.parse_args()
    if not (options.checkout / "datasets" / "build.py").is_file():
        print(f"{options.checkout}: has no datasets/build.py; give the folder of the released code", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / FOLDER).symlink_to(options.export.resolve())
        command = [sys.executable, "-c", INSIDE, str(options.checkout.resolve()), root]
        command += ["1" if options.copies else "0", str(options.batches)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=options.checkout)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or result is None:
        print((done.stderr or done.stdout)[-2000:], file=sys.stderr)
        return 1
    found: dict[str, Any] = json.loads(result.removeprefix("RESULT "))
    print(json.dumps(found, indent=2))
    expected = expected_counts(options.export)
    if found["counts"] != expected:
        print(f"{options.export}: its manifest says {expected}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
