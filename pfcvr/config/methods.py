"""The methods that share the trainer: which losses each has. ``docs/reproduce.md`` says what they are compared for.

A method is a layer of settings over a recipe, and ``--set`` is a layer over both. What a method does not name (sizes,
temperature, schedule, a recipe's own InfoNCE for starts from random weights) is the recipe's, so that methods trained
by one recipe differ in their losses alone.
"""

from typing import Any, Literal

Method = Literal["pfcvr", "irra", "clip"]

NO_PART_LOSSES = {"part_itc": 0.0, "part_across": 0.0, "part_mlm": 0.0}
METHODS: dict[Method, dict[str, Any]] = {
    # The recipe as it stands: SDM + ID + PLFA + BMRIA (paper eq. 5).
    "pfcvr": {},
    # SDM + ID + MLM, each of weight 1, four blocks in the word decoder, no copies of the images (IRRA, its run script).
    "irra": {
        "model": {"losses": {"sdm": 1.0, "id": 1.0, "mlm": 1.0, "mim": 0.0, **NO_PART_LOSSES}, "word_decoder_depth": 4},
        "augment": {"expand": False},
    },
    # CLIP fine-tuned with its own loss: InfoNCE between images and their captions, whoever they show.
    "clip": {
        "model": {"losses": {"itc": 1.0, "sdm": 0.0, "id": 0.0, "mlm": 0.0, "mim": 0.0, **NO_PART_LOSSES}},
        "augment": {"expand": False},
    },
}
