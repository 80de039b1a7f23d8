"""A data set on the Hub as it was when it was imported: its commit, its manifest, and what its card says of terms."""

from dataclasses import dataclass
from typing import Any

from pfcvr.errors import HubError
from pfcvr.hub import MANIFEST_NAME, HubRepository, Standing
from pfcvr.records import HubOrigin

CARD = "README.md"


@dataclass(frozen=True)
class HubSet:
    """``manifest`` is empty where pfcvr did not publish it; ``terms`` is what readers have to agree to, if anything."""

    origin: HubOrigin
    manifest: dict[str, Any]
    terms: str


def find_hub_set(name: str) -> HubSet:
    """The data set ``name`` at its newest commit.

    Raises HubError where the Hub has none that this machine's token may see, or was not reached.
    """
    repository = HubRepository(name, "dataset")
    standing = repository.standing()
    if standing is None:
        raise HubError(
            f"{name}: the Hub has no such data set, or the access token may not see it; check the name and the token"
        )
    manifest = repository.read_json(MANIFEST_NAME, standing.commit) if MANIFEST_NAME in standing.files else {}
    stated = _stated(repository, standing)
    origin = HubOrigin(repository=name, commit=standing.commit, licence=_licence(stated, repository, standing))
    terms = stated.get("extra_gated_prompt")
    return HubSet(origin, manifest, " ".join(terms.split()) if isinstance(terms, str) else "")


def _stated(repository: HubRepository, standing: Standing) -> dict[str, Any]:
    """The card's metadata; empty where there is no card, or none that can be read."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    if CARD not in standing.files:
        return {}
    text = repository.read_file(CARD, standing.commit).decode("utf-8", "replace")
    try:
        return vars(DatasetCard(text, ignore_metadata_errors=True).data)
    except (ValueError, TypeError, YAMLError):
        return {}


def _licence(stated: dict[str, Any], repository: HubRepository, standing: Standing) -> str | None:
    """The licence by the Hub's name for it; where that is ``other``, by its own name and the address of its text."""
    licence = stated.get("license")
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    if licence != "other":
        return str(licence) if licence else None
    link = stated.get("license_link")
    if link in standing.files:
        link = f"{repository.url}/blob/{standing.commit}/{link}"
    return ", ".join(str(one) for one in (stated.get("license_name") or licence, link) if one)
