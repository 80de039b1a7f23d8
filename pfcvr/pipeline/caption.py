"""The stage ``caption``: the sentences of every image, each with where it came from."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, groupby
from typing import Any

from pfcvr.backends import load_backend
from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.files import atomic_write
from pfcvr.jsonl import read_records, record_line
from pfcvr.pipeline.audit.agreement import Agreement
from pfcvr.pipeline.captioners import CAPTIONERS, Captioner, CaptionerFactory
from pfcvr.records import Caption, ImageRecord, Rejected
from pfcvr.stage import RunOptions, StagePlan, StageSummary, run_stage
from pfcvr.store import Workspace, left_join
from pfcvr.wording import amount

REVIEW = "review.jsonl"


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
            follows_row=config.captioner != "import",  # another image can make a name in the file ambiguous
            notes=lambda: list_doubts(workspace),
            normal_reasons=captioner.normal_reasons,
            live=captioner.live,
            give_up=captioner.give_up,
        )
        return run_stage(workspace, plan, options)


def list_doubts(workspace: Workspace) -> dict[str, Any]:
    """Write the images whose captions contradict others to ``caption/review.jsonl``, a Doubt a line, and count them.

    Captions that state neither color nor type leave nothing to compare, no list and no note.
    """
    paths = sorted(workspace.folder("caption").glob("part-[0-9]*.jsonl"))
    written = chain.from_iterable(read_records(path, Caption) for path in paths)
    with closing(Agreement()) as agreement:
        stated = False
        for image, caption in left_join(workspace.images(), written):
            if caption is not None:
                stated = stated or bool(caption.attributes)
                agreement.add(image, caption)
        if not stated:
            return {}
        images, doubted = 0, Counter[str]()
        with atomic_write(workspace.folder("caption") / REVIEW) as file:
            for _, group in groupby(agreement.doubts(), key=lambda doubt: doubt.vehicle_id):
                doubts = list(group)
                file.writelines(map(record_line, doubts))
                doubted.update(doubt.attribute for doubt in doubts)
                images += len({doubt.image_id for doubt in doubts})
    return {"to_review": images, "doubts": dict(sorted(doubted.items()))}


def review_line(summary: StageSummary) -> str:
    """Where to look at images in doubt, or nothing when there are none."""
    images = summary.notes.get("to_review", 0)
    return f"{amount(images, 'image')} to look at: captions contradict others, see caption/{REVIEW}" if images else ""
