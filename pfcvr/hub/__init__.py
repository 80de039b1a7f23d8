"""Publishing a folder on the Hugging Face Hub: what both halves need of ``huggingface_hub``, with its errors in words.

A publication is a folder that is complete before anything is sent. Its ``pfcvr.json`` names every file with its hash,
so that a rerun sends what is missing, and a repository that holds something else is told from one that was interrupted.
The access token is the one of this machine (``hf auth login`` or HF_TOKEN); it is never printed.
"""

import re

from pfcvr.hub.publication import MANIFEST_NAME, Publication, Published, publish, read_manifest
from pfcvr.hub.refusals import check_token, hub_cause, must_be_there, patiently
from pfcvr.hub.repository import HubRepository, Standing

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""``OWNER/NAME``; with a dot in front (``./run``, ``../data``) it can only be a path."""

__all__ = [
    "HUB_NAME",
    "MANIFEST_NAME",
    "HubRepository",
    "Publication",
    "Published",
    "Standing",
    "check_token",
    "hub_cause",
    "must_be_there",
    "patiently",
    "publish",
    "read_manifest",
]
