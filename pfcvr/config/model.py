"""Settings of the model half: what a model is, how it is trained, and what its commands are told."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pfcvr.config.base import Seed, Settings
from pfcvr.config.methods import Method
from pfcvr.config.variants import Variant

# Bounds far beyond what is ever meant: a slip of the finger gets a sentence instead of exhausting the memory
# (docs/decisions/0052-bounds-of-settings.md).
Width = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
Tokens = Annotated[int, Field(ge=3, le=1_024)]  # start and end among them
Side = Annotated[int, Field(ge=1, le=4_096)]  # px
Temperature = Annotated[float, Field(ge=1e-3, le=10)]
Activation = Literal["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
NormEps = Annotated[float, Field(gt=0, le=1)]


class TowerSizes(Settings):
    """Sizes of the two CLIP towers, in the words of Transformers' CLIP configuration.

    Used as they stand when the towers start from random weights; a backbone brings its own sizes, which replace these.
    The defaults are those of CLIP ViT-B/16 (paper, section V-B).
    """

    patch_size: Width = 16
    embedding_dim: Width = 512
    vision_width: Width = 768
    vision_mlp: Width = 3072
    vision_layers: Depth = 12
    vision_heads: Width = 12
    text_width: Width = 512
    text_mlp: Width = 2048
    text_layers: Depth = 12
    text_heads: Width = 8
    activation: Activation = "quick_gelu"
    norm_eps: NormEps = 1e-5

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> Self:
        for tower, width, heads in (
            ("vision", self.vision_width, self.vision_heads),
            ("text", self.text_width, self.text_heads),
        ):
            if width % heads:
                raise ValueError(f"{tower}_width ({width}) must be divisible by {tower}_heads ({heads})")
        return self


class LossWeights(Settings):
    """Weights of equation 5's terms. A weight of 0 means that the branch is neither built nor computed."""

    sdm: float = Field(1.0, ge=0)  # official code; the paper's value is lost
    id: float = Field(0.5, ge=0)  # official code; the paper's value is lost
    part_itc: float = Field(0.2, ge=0)  # paper Table VIII
    part_across: float = Field(0.0, ge=0)  # ours: the same part contrasted across the images of a batch
    part_mlm: float = Field(0.0, ge=0)  # paper Table VI, instead of part_itc: a part's masked name from its patches
    mlm: float = Field(0.5, ge=0)  # official code; the paper has one weight for both reconstruction branches
    mim: float = Field(0.5, ge=0)  # official code
    itc: float = Field(0.0, ge=0)  # ours: InfoNCE on the global features, for a start from random weights

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("every loss has weight 0, so nothing would be trained; give one of them a weight")
        return self


class ModelConfig(Settings):
    """Everything that decides which PFCVR model is built; what decides how it is trained is not here."""

    # Transformers CLIP checkpoint (name or folder) or a file in OpenAI's layout; none: random ``towers``.
    backbone: str | None = Field(None, min_length=1)
    towers: TowerSizes = TowerSizes()
    image_size: tuple[Side, Side] = (384, 384)  # rows, cols in px (official code; the paper's number is lost)
    text_length: Tokens = 77  # (paper, section V-B)
    vocabulary: Literal["clip", "captions"] = "clip"  # CLIP's BPE (paper), or one trained on the train captions (ours)
    vocabulary_size: int = Field(4096, ge=600, le=1_000_000)  # ours: upper bound for the vocabulary trained on captions
    losses: LossWeights = LossWeights()
    heads: Width = 8  # attention heads of every new module (paper, section V-B)
    temperature: Temperature = 0.02  # IRRA's, since the paper is silent; official code .07
    part_temperature: Temperature = 0.02  # the same; official code .07
    cls_position: Literal[0, 1] = 0  # row of the position table that CLS reads; official code 1
    mask_caption_for_matching: bool = False  # all losses read the masked caption; official code: of its copies

    # PLFA. What a part query attends to: its part's text, and beside it the caption or the image's CLS feature.
    part_text: Literal["name", "phrase"] = "name"  # "car roof" (paper), or the data set's phrase for the part (ours)
    part_text_length: Tokens = 16  # ours: of a phrase
    part_text_feature: Literal["tokens", "mean"] = "tokens"  # official code: mean over all positions, padding too
    part_context: Literal["caption", "image"] = "caption"  # paper eq. 1; official code: image
    part_fusion: Literal["concatenate", "add"] = "concatenate"  # paper eq. 1; official code: add
    part_decoder: Literal["cross_attention", "detr"] = "cross_attention"  # paper eq. 1; official code: DETR's decoder
    part_decoder_depth: Depth = 6  # of DETR's decoder (official code)
    part_decoder_dropout: float = Field(0.1, ge=0, lt=1)  # of DETR's decoder (official code)
    part_pool: Literal["mean", "positions"] = "mean"  # ours; official code: one learned weight per patch position
    part_loss: Literal["info_nce", "bce"] = "info_nce"  # paper eq. 9; official code: bce

    # BMRIA.
    word_mask_ratio: float = Field(0.15, gt=0, lt=1)  # paper, section V-B
    word_decoder_depth: Depth = 1  # paper eq. 3: one block after the cross-attention; official code 4
    patch_mask_ratio: float = Field(0.25, gt=0, lt=1)  # paper, section V-B; share of the patches that are
    patch_mask_ratio_means: Literal["removed", "kept"] = "removed"  # official code: kept
    masked_patches: Literal["drop", "zero"] = "drop"  # official code; zero: black pixels, as the paper's figure
    masked_patch_choice: Literal["parts_first", "parts"] = "parts_first"  # official code; parts: those of parts alone
    patch_guide: Literal["tokens", "end"] = "tokens"  # official code; end: the caption's global feature alone
    mask_padding: bool = True  # no branch of BMRIA reads what follows the end token; official code: it does
    patch_decoder_depth: Depth = 4  # official code; the paper says "multiple" (eq. 4)
    patch_decoder_head_width: Width = 96  # official code

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        # With a backbone the sizes are known once it is loaded; who loads it asks again.
        if self.backbone is None and self.misfit is not None:
            raise ValueError(self.misfit)
        return self

    @model_validator(mode="after")
    def _switches_agree(self) -> Self:
        if self.masked_patch_choice == "parts" and self.masked_patches == "drop":
            raise ValueError("masked_patch_choice = parts needs masked_patches = zero: images differ in their number")
        return self

    @property
    def misfit(self) -> str | None:
        """What does not fit the sizes of ``towers``, if anything."""
        patch, width, (rows, cols) = self.towers.patch_size, self.towers.embedding_dim, self.patch_grid
        if any(side % patch for side in self.image_size):
            return f"image_size {self.image_size} must be multiples of patch_size ({patch})"
        if width % self.heads:
            return f"embedding_dim ({width}) must be divisible by heads ({self.heads})"
        if self.losses.mim and self.masked_patch_choice == "parts_first":
            if self.removed_patches == 0:
                return f"patch_mask_ratio ({self.patch_mask_ratio}) removes no patch of {self.patch_grid}"
            if self.removed_patches == rows * cols:
                return f"patch_mask_ratio ({self.patch_mask_ratio}) removes every patch of {self.patch_grid}"
        return None

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid of one image."""
        rows, cols = self.image_size
        return rows // self.towers.patch_size, cols // self.towers.patch_size

    @property
    def removed_patches(self) -> int:
        """How many patches of an image are removed for its reconstruction, rounded down."""
        rows, cols = self.patch_grid
        ratio = self.patch_mask_ratio if self.patch_mask_ratio_means == "removed" else 1 - self.patch_mask_ratio
        return int(rows * cols * ratio)


class AugmentConfig(Settings):
    """Random changes of a train image, which the masks of its parts follow (paper, section III-D)."""

    sync_masks: bool = True  # masks follow flip, crop and erasing; official code: they stay as they were
    flip: float = Field(0.5, ge=0, le=1)  # official code
    crop_padding: int = Field(10, ge=0)  # px of black border around the resized image before a random crop (official)
    erase: float = Field(0.5, ge=0, le=1)  # this and the next two: official code
    erase_area: tuple[float, float] = (0.02, 0.4)  # share of the image
    erase_aspect: tuple[float, float] = (0.3, 3.3)  # height / width
    expand: bool = True  # paper: original, dark, bright and noisy copy of every train image, so 4 items a pair
    dark_gamma: tuple[float, float] = (1.5, 2.5)  # ours: neither paper nor code gives the strength of the copies
    bright_gamma: tuple[float, float] = (0.4, 0.7)  # ours
    noise_sigma: float = Field(0.05, ge=0, le=1)  # ours; pixel values in [0, 1]

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("erase_area", "erase_aspect", "dark_gamma", "bright_gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} ({low}, {high}) must be two positive numbers, the smaller first")
        if self.erase_area[1] > 1:
            raise ValueError(f"erase_area {self.erase_area} is a share of the image and must not exceed 1")
        if self.dark_gamma[0] < 1 or self.bright_gamma[1] > 1:
            raise ValueError(
                f"dark_gamma {self.dark_gamma} must lie above 1 and bright_gamma {self.bright_gamma} below: a pixel in "
                "[0, 1] is raised to that power"
            )
        return self


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Settings):
    """The optimizer. Biases are never decayed, weights of normalisations by the rate groups ``official`` alone."""

    kind: Literal["adam", "adamw"] = "adam"  # paper, section V-B
    lr: float = Field(1e-5, gt=0)  # official code; the paper's value is lost
    new_module_factor: float = Field(5.0, gt=0)  # paper: larger for modules that start at random; official code: 5
    rate_groups: Literal["new_modules", "official"] = "new_modules"  # which ones: all, or the official code's choice
    weight_decay: float = Field(4e-5, ge=0, le=10)  # official code
    betas: tuple[Decay, Decay] = (0.9, 0.999)  # official code
    eps: float = Field(1e-3, gt=0, le=1)  # official code, where half precision needs it; it damps small gradients


class ScheduleConfig(Settings):
    """Warm-up, then cosine to 0, stepped once per ``unit``; every length here is counted in that unit."""

    unit: Literal["epoch", "step"] = "epoch"  # official code
    length: int = Field(60, ge=1)  # paper, section V-B
    warmup: int = Field(5, ge=0)  # paper, section V-B
    warmup_start: float = Field(0.1, gt=0, le=1)  # official code; the paper's number is lost
    evaluate_every: int = Field(1, ge=1)  # official code; the last one is always evaluated

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup >= self.length:
            raise ValueError(f"warmup ({self.warmup}) must be shorter than length ({self.length})")
        return self


class Recipe(Settings):
    """Everything that decides what a training run computes; stored with the run as ``recipe.toml``.

    ``method`` and ``variant`` name the layers whose values the other keys hold already.
    """

    method: Method = "pfcvr"
    variant: Variant = "paper"
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: int = Field(20, ge=1)  # pairs of a step, all processes together; official: 5 images, 4 copies each
    accumulation: int = Field(1, ge=1)  # ours: parts of a batch computed one after another; pairs meet within a part
    precision: Literal["fp32", "bf16"] = "fp32"  # ours: float32 weights always; bf16 is autocast of the forward pass
    val_share: float = Field(0.1, gt=0, lt=1)  # ours: share of train identities carved where the data has no val split
    checkpoint_every: int = Field(200, ge=1)  # ours, in steps; an evaluation always writes a checkpoint

    @model_validator(mode="after")
    def _parts_of_a_batch_and_crops_have_content(self) -> Self:
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation ({self.accumulation}) must not exceed batch_size ({self.batch_size})")
        if self.augment.crop_padding >= min(self.model.image_size):
            raise ValueError(
                f"augment.crop_padding ({self.augment.crop_padding}) must be smaller than the sides of image_size "
                f"{self.model.image_size}, else a crop may show nothing but the border"
            )
        return self


Protocol = Literal["clean", "published"]
ResampledUnit = Literal["identities", "queries"]


class DeviceSettings(Settings):
    """How this machine encodes images; does not change any result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=0, le=256)  # processes that load images; none: half of the cores, at most 8


class ComputeSettings(DeviceSettings):
    """How this machine trains; changes no result but by rounding."""

    threads: int | None = Field(None, ge=1, le=1_024)  # of the CPU; none: the cores here, shared by the processes here
    gradient_checkpointing: bool = False  # the towers compute twice and keep less: less memory, a third more time
    compile: bool = False  # torch.compile on the layers of the towers


class TrainConfig(ComputeSettings):
    """One training run: what on, by which recipe, under which protocol, and how this machine does it.

    ``clean`` chooses the best weights on val identities; ``published`` trains on train and val together and chooses
    on test, as the published tables did. The settings of the machine do not belong to the run's identity.
    """

    data: str
    out: Path
    recipe: str = "tiny"  # a name in pfcvr/model/recipes, or a TOML file
    overrides: tuple[str, ...] = ()  # KEY=VALUE, dotted keys of the recipe
    method: Method | None = None  # none: the one that the recipe names, else pfcvr
    variant: Variant | None = None  # none: the one that the recipe names, else paper
    protocol: Protocol = "clean"
    seed: Seed = 0


class ProbeConfig(ComputeSettings):
    """Which batch of a recipe fits into the memory of this machine's device; the fields mean what TrainConfig's do."""

    data: str
    recipe: str = "tiny"
    overrides: tuple[str, ...] = ()
    method: Method | None = None
    variant: Variant | None = None


class EvalConfig(DeviceSettings):
    """Evaluation of a finished run on one split; ``truth`` names the families of near-twins, as synth writes it."""

    run: Path
    data: str
    split: str = "test"
    truth: Path | None = None
    figures: Path | None = None  # folder for pictures


class IndexConfig(DeviceSettings):
    """A gallery: the features of all images of ``split`` (``all``: of every split), stored with the run they are of."""

    run: Path
    data: str
    out: Path
    split: str = "all"


class SearchConfig(DeviceSettings):
    """A search by sentence in a gallery, or with a run in the images of ``data``."""

    source: Path
    text: str
    data: str | None = None
    split: str = "test"
    k: int = Field(10, ge=1)
    image_id: str | None = None  # the image that the text describes, where that is known
    out: Path | None = None  # picture of the answer
