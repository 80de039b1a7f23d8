"""The nouns that cross a disk boundary, one frozen type per stage, joined by ``image_id``.

Boxes are ``(x0, y0, x1, y1)`` floats in pixels of the image *after* EXIF rotation; so are ``width`` and ``height``.
Standard library and pydantic only.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Part = Literal["windows", "wheels", "doors", "mirrors", "lights", "roof"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The part vocabulary, in the order of axis 0 of every patch grid."""

Attribute = Literal["color", "type", "viewpoint"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Text = Annotated[str, StringConstraints(min_length=1)]
BoxXyxy = tuple[float, float, float, float]


class Record(BaseModel):
    """Base of all records: immutable, an unknown field is an error, ``key`` names the row inside its stage.

    Numbers are finite: JSON has no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def key(self) -> str:
        """What a row is called inside its stage; sealed records are sorted by it."""
        raise TypeError(f"{type(self).__name__} has no key")


class ImageKeyed(Record):
    """A record that describes one image."""

    image_id: Text

    @property
    def key(self) -> str:
        return self.image_id


class ImageRecord(ImageKeyed):
    """One readable image of a source. ``path`` is relative to the source's root, with forward slashes.

    ``source_split`` is the split that the source gives the image, if any: ``pfcvr-data split --from-source`` takes it.
    """

    vehicle_id: Text
    camera_id: str | None = None
    timestamp: str | None = None
    source: Text
    path: Text
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    color: str | None = None
    type: str | None = None
    model: str | None = None
    source_split: Split | None = None


class Selected(ImageKeyed):
    """An image that takes part in the data set."""

    vehicle_id: Text


PEOPLE = "people"
"""The captioner, or detector, of what people wrote or drew."""


class CaptionOrigin(Record):
    """Where a caption came from; fields that a captioner has no value for are None."""

    captioner: Text
    file: str | None = None
    file_sha256: str | None = None
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    prompt_sha256: str | None = None
    sampling: dict[str, float | int | str] | None = None
    seed: int | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def human(self) -> bool:
        """Whether people wrote it; who and when says the HumanEdit."""
        return self.captioner == PEOPLE


class Caption(ImageKeyed):
    """The sentences of one image (at least one, none empty) and, where known, a phrase per visible part.

    ``attributes`` are what the captioner said besides: ``color``, ``type`` and ``viewpoint``, those that it knew.
    """

    texts: Annotated[tuple[Text, ...], Field(min_length=1)]
    part_texts: dict[Part, Text] = Field(default_factory=dict)
    attributes: dict[Attribute, Text] = Field(default_factory=dict)
    origin: CaptionOrigin


class Rle(Record):
    """COCO run-length encoding of a mask: ``size`` is (height, width), ``counts`` the compressed text."""

    size: tuple[int, int]
    counts: str


class PartInstance(Record):
    """One detected instance. ``score`` is in [0, 1]; 1.0 for annotations without a score.

    ``flags`` say why somebody should look at it (docs/parts.md); it is kept all the same.
    """

    part: Part
    box_xyxy: BoxXyxy
    score: float = Field(1.0, ge=0, le=1)
    mask: Rle | None = None
    flags: tuple[Text, ...] = ()


class PatchGrid(Record):
    """Which patches each part covers, and the rule that decided it.

    Rule ``given``: the cells came with the annotations; where those had nothing else, masks are the cells drawn on the
    pixels.

    ``cells`` maps a part to its rows x cols bits, row-major, packed eight to a byte, as hexadecimal text.
    A part without a cell is absent. Rule ``stretch-coverage``: see ``geometry.coverage_grid``.
    """

    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    coverage: float
    rule: Literal["stretch-coverage", "given"] = "stretch-coverage"
    cells: dict[Part, str]


class PartsOrigin(Record):
    """Where part instances came from: programs, the names of their weights, and the phrases they were asked for."""

    detector: Text
    segmenter: str | None = None
    detector_model: str | None = None
    segmenter_model: str | None = None
    phrases: str | None = None
    phrases_sha256: str | None = None

    @property
    def human(self) -> bool:
        """Whether people drew them; who and when says the HumanEdit."""
        return self.detector == PEOPLE


class ImageParts(ImageKeyed):
    """The parts found on one image. No instance at all is a normal value."""

    instances: tuple[PartInstance, ...]
    grid: PatchGrid
    origin: PartsOrigin


EditForm = Literal["captions", "coco", "label-studio", "cvat"]


class HumanOrigin(Record):
    """Where an edit by people came from: the form and the bytes of the file, and, where it says so, who and when."""

    human: Literal[True] = True
    form: EditForm
    file: Text
    file_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    editor: str | None = None
    time: str | None = None


class HumanCaption(Record):
    """Sentences that people wrote or corrected; they replace all of a captioner's."""

    texts: Annotated[tuple[Text, ...], Field(min_length=1)]
    part_texts: dict[Part, Text] = Field(default_factory=dict)
    origin: HumanOrigin


class HumanParts(Record):
    """All parts of an image as people drew them; none is what somebody who looked at it may well say."""

    instances: tuple[PartInstance, ...]
    origin: HumanOrigin


class HumanEdit(ImageKeyed):
    """What people say of one image, over what the stages ``caption`` and ``parts`` say; None where they said nothing.

    It holds for the bytes that they saw: ``image_sha256``.
    """

    image_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    caption: HumanCaption | None = None
    parts: HumanParts | None = None


class VehicleSplit(Record):
    """All images of a vehicle belong to one split."""

    vehicle_id: Text
    split: Split
    images: int = Field(ge=1)

    @property
    def key(self) -> str:
        return self.vehicle_id


class Rejected(Record):
    """A row that did not make it, and why. ``subject`` is an image_id, or the place in a file (``file:line``)."""

    stage: Text
    subject: Text
    reason: Text
    detail: str = ""
    attempts: int = Field(1, ge=1)

    @property
    def key(self) -> str:
        return self.subject


class HubOrigin(Record):
    """A data set on the Hub that images and annotations were taken from, and the licence that its card states."""

    repository: Text
    commit: Text
    licence: str | None = None


class Source(Record):
    """Where images came from and what its terms allow. Publishing pixels needs ``redistribute_images``.

    ``taken_from`` are the data sets on the Hub through which they came, the nearest last.
    """

    name: Text
    root: Text
    format: Text
    licence: str | None = None
    terms: str = ""
    redistribute_images: bool = False
    taken_from: tuple[HubOrigin, ...] = ()
