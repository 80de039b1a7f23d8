"""What the audit says of captions."""

import json
import subprocess
import sys

from audits import audit, finding

from pfcvr import clip_vocabulary
from pfcvr.pipeline.audit import captions
from pfcvr.records import Caption, CaptionOrigin


def test_caption_of_a_model_without_its_prompt_fails(small) -> None:
    small.add_images({"1": 1, "2": 1})
    origin = CaptionOrigin(captioner="vllm", model="some-model")
    rows = [
        Caption(image_id=image.image_id, texts=("a white car " + image.image_id,), origin=origin)
        for image in small.images
    ]
    small.seal("caption", Caption, rows)
    small.add_split(val=0)
    assert finding(audit(small), "missing_provenance").count == 2


def test_blank_captions_fail_and_poor_ones_warn(small) -> None:
    small.add_images({"1": 3, "2": 3})
    ids = [image.image_id for image in small.images]
    texts = [
        "  \n ",
        "!!!!!!",
        "car car car car red",
        "a car",
        "A white van with dark windows.",
        "A red bus on the road.",
    ]
    small.add_captions({image_id: [text] for image_id, text in zip(ids, texts, strict=True)})
    small.add_split(val=0)
    report = audit(small)
    assert finding(report, "empty_captions").examples == (ids[0],)
    assert finding(report, "degenerate_captions").examples == (ids[1], ids[2], ids[3])


def test_same_words_for_different_vehicles_warn_but_not_for_one_vehicle(small) -> None:
    small.add_images({"1": 2, "2": 1, "3": 1})
    ids = [image.image_id for image in small.images]
    texts = ["A red van, seen here.", "A red van, seen here.", "a RED van seen here", "A blue bus seen there."]
    small.add_captions({image_id: [text] for image_id, text in zip(ids, texts, strict=True)})
    small.add_split(val=0)
    same = finding(audit(small), "identical_captions")
    assert (same.count, same.examples) == (3, (f"{ids[0]} = {ids[2]}",))


def test_template_captions_and_missing_captions_and_lone_images_warn(small) -> None:
    small.add_images({"1": 2, "2": 1})
    small.add_captions({small.images[0].image_id: ["a white car on a road"]}, captioner="template")
    small.add_split(val=0)
    report = audit(small)
    assert report.passed
    assert finding(report, "templated_captions").count == 1
    assert finding(report, "missing_captions").count == 2
    assert finding(report, "lone_images").examples == ("2",)
    strict = audit(small, strict=True)
    assert not strict.passed
    assert "warnings count (--strict)" in strict.text()


def test_captions_over_77_tokens_warn_and_those_of_77_do_not(small) -> None:
    small.add_images({"1": 1, "2": 1})
    ids = [image.image_id for image in small.images]
    words = "white car with roof rails and a dark window "
    small.add_captions({ids[0]: [(words * 9)[: len(words) * 9].strip()], ids[1]: [" ".join((words * 9).split()[:75])]})
    small.add_split(val=0)
    long = finding(audit(small), "truncated_captions")
    assert (long.count, long.examples) == (1, (ids[0],))


def test_token_counts_are_those_of_clips_own_tokenizer() -> None:
    texts = [
        "A white SUV, it's parked; roof-rails & 5-spoke wheels!",
        "&lt;b&gt; taxi &amp;amp; bus",
        "",
        "naïve café 白色轿车 🚗  tabs\tand\nlines",
        "antidisestablishmentarianism-class pickup 12345",
    ]
    program = (
        "import json, sys; from open_clip.tokenizer import SimpleTokenizer; t = SimpleTokenizer(); "
        "print(json.dumps([len(t.encode(t.clean_fn(text))) + 2 for text in json.loads(sys.argv[1])]))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program, json.dumps(texts)], capture_output=True, text=True, check=True
    )
    assert clip_vocabulary.token_counts(clip_vocabulary.clip_bpe(), texts) == json.loads(theirs.stdout)


def test_counting_tokens_does_not_load_torch() -> None:
    program = (
        "import sys; from pfcvr.pipeline.audit.captions import CaptionAudit; CaptionAudit(); "
        "print({'torch', 'open_clip'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_the_vocabulary_the_report_says_that_tokens_were_not_counted(whole, monkeypatch) -> None:
    monkeypatch.setattr(captions, "clip_bpe", lambda: None)
    report = audit(whole)
    assert finding(report, "tokens_not_counted").severity == "note"
    assert audit(whole, strict=True).findings
    assert "pip install -e '.[model]'" in report.text()
