"""The stage ``caption``: the sentences of every image, each with where it came from."""

from collections.abc import Iterator
from contextlib import closing

from pfcvr.backends import load_backend
from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.pipeline.captioners import CAPTIONERS, Captioner, CaptionerFactory
from pfcvr.records import Caption, ImageRecord, Rejected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace


def run(workspace: Workspace, config: CaptionConfig, options: RunOptions) -> StageSummary:
    """Write a Caption for every image of the workspace that the captioner has words for.

    Raises UsageError or SourceError from the captioner, and what ``run_stage`` raises.
    """
    if config.captions is not None and config.captioner != "import":
        raise UsageError(
            f"captioner '{config.captioner}' reads no captions file; for the captions in {config.captions} add "
            "--captioner import"
        )
    for name, value in (("base-url", config.base_url), ("model", config.model)):
        if value is not None and config.captioner in ("template", "import"):
            raise UsageError(
                f"captioner '{config.captioner}' asks no model; for captions by --{name} {value} add --captioner openai"
            )
    inputs = workspace.images_input()
    factory: CaptionerFactory = load_backend("captioner", CAPTIONERS, config.captioner)
    captioner: Captioner = factory(workspace, config, options)

    def rows() -> Iterator[ImageRecord | Rejected]:
        yield from workspace.images()
        yield from captioner.rejected()

    def work(row: ImageRecord | Rejected) -> Caption | Rejected:
        return row if isinstance(row, Rejected) else captioner.caption(row)

    with closing(captioner):
        plan = StagePlan(
            name="caption",
            kind=Caption,
            settings={"captioner": config.captioner, **captioner.settings},
            inputs=inputs | captioner.inputs,
            rows=rows,
            key=lambda row: row.key,
            work=work,
            total=workspace.image_count() + captioner.rejected_count,
            workers=captioner.workers,
            normal_reasons=captioner.normal_reasons,
            live=captioner.live,
            give_up=captioner.give_up,
        )
        return run_stage(workspace, plan, options)
