"""Judging of answers: what passes, and one hand-written example or more for every reason to refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import fault_server as faults
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfcvr import clip_vocabulary
from pfcvr.pipeline.captioners.judge import (
    Answer,
    Judged,
    Reason,
    Refusal,
    _clip_tokens,
    changed_sampling,
    json_in,
    judge,
)
from pfcvr.pipeline.captioners.prompt import load_prompt
from pfcvr.pipeline.synth import render
from pfcvr.pipeline.synth.attributes import family
from pfcvr.pipeline.synth.captions import Sight, long_caption, part_phrases
from pfcvr.pipeline.synth.stations import STATIONS, draw_view
from pfcvr.stage import RunOptions

TEXT, JSON = load_prompt("vehicle-text"), load_prompt("vehicle-json")
GOOD = (
    "A white sedan seen from the front left, with a round red sticker on the rear door and a dent above the left front "
    "wheel. The wide chrome grille has four bars, the headlights are slim, the silver wheels have five spokes, and a "
    "black sunroof sits in the plain white roof above dark rear windows."
)
WRITTEN_BY_PEOPLE = (
    "White liftback, rear three-quarter view from above, split dark back window with wiper, upright grey tail lamps, "
    "white roof, white mirrors and one long black side window; its left rear lamp is cracked and taped over in red.",
    "One dark gray Mercedes with a GLE450 badge, a masked plate below four round lamps, roof rails in silver, XC90 "
    "shoulders, 20-inch wheels with ten spokes, two-tone mirrors, and a child's seat behind the tinted rear glass.",
    "A large blue truck with HOWO lettering over the grille, a yellow warning sign behind the windshield, six wheels "
    "with red nuts, a tarpaulin tied over the bed, two square mirrors on each side and orange lamps along the roof.",
    "This is a yellow taxi: a lit sign on the roof, checkered stripes along both doors, steel wheels with round holes, "
    "clear windows, a cracked front bumper, and a blank blue license plate below a black plastic grille.",
    "A black Audi A4 and nothing else on it that shines: matt paint, black rims, black badges, black grille, dark rear "
    "windows, dark tail lights, one silver exhaust pipe on the right, and the rear wiper is missing on this one.",
)

WORDY = (
    "Two-tone mid-size hard-top SUV, pearl-white-over-graphite: LED-ringed halogens, mesh-patterned grille, "
    "anthracite-lacquered multi-spoke alloys, panoramic sunroof, rain-deflectors, chrome-edged privacy-glazing, "
    "rust-speckled sills, asymmetrically-dented tailgate, bumper-mounted tow-hook, aftermarket spoiler, "
    "sun-bleached stickers and four mud-flaps behind two-piece rims of brushed metal."
)
NO_PLATES = (
    'A masked plate and the word "TAXI" on the door.',
    "A blank blue plate under a sign that reads DHL.",
    "A plate without text, and a door with the letters DHL.",
    "Badges say MAZDA3 and 4MATIC; the truck is a F150 beside an A4.",
    "A GLE450 with a yellow license plate.",
    "Lettering on the side gives 0800 555 and 24H service.",
    "Its registration cannot be read.",
)


def reason_of(caption: str, **answer: Any) -> str:
    verdict = judge(Answer(caption, **{"finish_reason": "stop", **answer}), TEXT)
    return verdict.reason if isinstance(verdict, Refusal) else "good"


def structured(**changes: Any) -> dict[str, Any]:
    """A good answer to the prompt ``vehicle-json``, with changes."""
    parts = {"windows": "dark rear windows", "wheels": "silver wheels with five spokes", "doors": "", "mirrors": ""}
    parts |= {"lights": "slim headlights", "roof": "Not visible."}
    answer = {"color": "white", "type": "sedan", "viewpoint": "front left", "parts": parts, "caption": GOOD}
    return answer | changes


def verdict_on(value: Any) -> Judged | Refusal:
    return judge(Answer(json.dumps(value), "stop"), JSON)


def padded(start: str) -> str:
    """``start`` followed by enough words for the length band."""
    return f"{start} {GOOD}" if len(start.split()) < 12 else start


def test_a_good_answer_gives_the_sentence_and_a_phrase_for_each_part_that_is_seen() -> None:
    verdict = verdict_on(structured(color="unknown"))
    assert verdict == Judged(
        texts=(GOOD,),
        part_texts={
            "windows": "dark rear windows",
            "wheels": "silver wheels with five spokes",
            "lights": "slim headlights",
        },
        color=None,
        type="sedan",
        viewpoint="front left",
    )
    assert isinstance(verdict, Judged)
    assert verdict.attributes == {"type": "sedan", "viewpoint": "front left"}


def test_every_choice_of_the_schema_can_be_answered() -> None:
    assert JSON.json_schema is not None
    for fact in ("color", "type", "viewpoint"):
        for choice in JSON.json_schema["properties"][fact]["enum"]:
            verdict = verdict_on(structured(**{fact: choice}))
            assert isinstance(verdict, Judged)
            assert verdict.attributes.get(fact, "unknown") == choice


def test_a_plain_answer_is_the_sentence_with_its_white_space_in_order() -> None:
    assert judge(Answer(f"\n {GOOD.replace('. ', '.  ')}\n", "stop"), TEXT) == Judged((GOOD,))


@pytest.mark.parametrize("caption", WRITTEN_BY_PEOPLE)
def test_sentences_as_people_write_them_pass(caption: str) -> None:
    assert judge(Answer(caption, "stop"), TEXT) == Judged((caption,))


@pytest.mark.parametrize("start", NO_PLATES)
def test_lettering_and_badges_are_no_plates(start: str) -> None:
    wide = replace(TEXT, max_words=80)
    verdict = judge(Answer(f"{start} {GOOD.partition('. The')[0]}, four doors and a plain gray roof.", "stop"), wide)
    assert isinstance(verdict, Judged), verdict


def test_what_the_renderer_says_of_its_vehicles_passes() -> None:
    rng = np.random.default_rng(4)
    for index in range(24):
        vehicle = family(3, index)[index % 3]
        station = STATIONS[index % len(STATIONS)]
        view = draw_view(station, rng)
        sight = Sight.of(vehicle, render(vehicle, view, 96), view, station)
        value = structured(caption=long_caption(sight, rng), parts=structured()["parts"] | part_phrases(sight, rng))
        assert isinstance(verdict_on(value), Judged), value


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("!" * 200, "degenerate"),
        (padded("A white sedan ................"), "degenerate"),
        (padded("A white sedanaaaaaaaaaaaaaa"), "degenerate"),
        (padded("A white\x00 sedan."), "degenerate"),
        (padded("A whit\ufffd sedan."), "degenerate"),
        (padded("A white\u200b sedan."), "degenerate"),
        (padded("A " + "carparkdoor" * 4), "degenerate"),
        ("12 34 56 78 90 " * 8, "degenerate"),
        (padded("A white sedan" + " " * 40 + "with doors."), "degenerate"),
        ("I'm sorry, but I can't help with identifying vehicles in this picture.", "declined"),
        ("As an AI language model, I do not see pictures.", "declined"),
        (padded("I cannot clearly see the vehicle."), "declined"),
        (padded("Please provide the image."), "declined"),
        (padded("No image was provided."), "declined"),
        (padded("**White sedan**"), "markup"),
        (padded("# White sedan\n"), "markup"),
        (padded("- white\n- sedan\n"), "markup"),
        (padded("1. A white sedan.\n"), "markup"),
        (f"```\n{GOOD}\n```", "markup"),
        (padded("<b>White</b> sedan."), "markup"),
        (padded("White sedan.<|im_end|>"), "markup"),
        (padded("White &amp; gray sedan."), "markup"),
        (json.dumps({"caption": GOOD}), "markup"),
        ("the car " * 25, "repetition"),
        (padded("A red red red car."), "repetition"),
        ("A white car with dark windows. " * 3 + GOOD, "repetition"),
        (f"{GOOD[:120]} {GOOD[:120]}", "repetition"),
        ("White roof, white door, white hood, white trunk, white rims, white bumper, white grille, white mirror, white "
         "sill, white spoiler, white skirt, white rails, white caps.", "repetition"),
        (padded("A white sedan whose license plate reads B 1234."), "plate_text"),
        (padded("The number plate is blue: A12345."), "plate_text"),
        (padded("Plate “KX 55”."), "plate_text"),
        (padded("A sedan, 京A·12345."), "plate_text"),
        (padded("A sedan marked KX07 ABC."), "plate_text"),
        (padded("A sedan marked 7ABC123 at the rear."), "plate_text"),
        (padded("A sedan with the plate ABC123."), "plate_text"),
        (padded("A sedan, B-MW 1234."), "plate_text"),
        ("Ein weißer Wagen mit einer dunklen Scheibe und runden Lampen steht schräg vor der Kamera, das Dach ist "
         "schwarz und die Felgen sind aus Stahl mit vielen Speichen und einem roten Rand.", "wrong_language"),
        ("Une berline blanche vue de face avec des jantes argentées, une calandre chromée et des vitres teintées sur "
         "les portes du côté gauche, le toit est noir et les phares sont ronds et très larges.", "wrong_language"),
        ("Mobil sedan putih terlihat dari depan dengan kaca gelap, lampu bulat besar, pelek perak lima jari, atap "
         "polos hitam, spion berwarna sama, gril krom lebar, bemper depan penyok, pintu empat buah.", "wrong_language"),
        ("一辆白色轿车，车窗很暗，轮毂为银色五辐条，前格栅镀铬，车顶有天窗，左侧车门有红色圆形贴纸，"
         "前保险杠有划痕，后视镜为黑色。", "wrong_language"),
        ("A white sedan with dark windows and silver wheels.", "too_short"),
        (f"{GOOD} Its doors carry slim handles in the same paint, and its bumper is smooth.", "too_long"),
        (" ".join(f"off-white-and-gray {word}" for word in GOOD.split()[:20]), "repetition"),
        (WORDY, "too_many_tokens"),
    ],
)  # fmt: skip
def test_each_kind_of_bad_sentence_is_refused_for_its_own_reason(caption: str, reason: str) -> None:
    assert reason_of(caption) == reason


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("length", "truncated"), ("repetition", "repetition"), ("content_filter", "abnormal_finish"), (None, "good")],
)
def test_an_answer_that_did_not_end_by_itself_is_refused(finish_reason: str | None, reason: str) -> None:
    assert reason_of(GOOD, finish_reason=finish_reason) == reason


def test_a_run_without_clips_vocabulary_says_once_that_captions_may_be_too_long(
    pictures, start, capsys, monkeypatch
) -> None:
    server = start(script=lambda asked: faults.answer(WORDY), probe=None)
    _clip_tokens.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(clip_vocabulary, "find_spec", lambda name: None)
        summary = pictures(3).run(server, RunOptions(), prompt="vehicle-text")
        _clip_tokens.cache_clear()
    assert summary.kept == 3
    told = capsys.readouterr().err
    assert told.count("captions are not held to CLIP's 75 tokens") == 1
    assert "pip install --no-deps open_clip_torch" in told
    assert reason_of(WORDY) == "too_many_tokens"


def test_an_answer_to_a_prompt_without_a_picture_is_refused() -> None:
    words = len(f"{TEXT.system} {TEXT.user}".split())
    text_alone = round(1.3 * words)
    assert reason_of(GOOD, prompt_tokens=text_alone + 12, expected_vision_tokens=256) == "no_image"
    assert reason_of(GOOD, prompt_tokens=text_alone + 256, expected_vision_tokens=256) == "good"
    assert reason_of(GOOD, prompt_tokens=12) == "good"


# As many tokens as Qwen's tokenizer makes of the instruction alone, and of the message's frame.
CHINESE = (
    "你是一名车辆描述员。请根据交通摄像头拍摄的图片，用简洁的语言描述图中的一辆车。搜索引擎将使用你的文字把这辆车与成千上万辆相似的车"
    "区分开来。只报告图片中可以看到的内容，不确定的细节请省略。首先写出颜色和车型，然后说明最能区分这辆车的特征：贴纸、条纹、凹痕、"
    "车顶行李架、天窗、双色车漆、缺失的零件、挡风玻璃后面的物品。再描述格栅、前大灯或尾灯、车轮、车顶、车窗和保险杠的形状、颜色、"
    "数量和位置。不要读出或猜测车牌号码。只有在图片中能看到徽标或文字时，才写出品牌或型号。不要描述行人、街道、天气和图片质量。"
)
RUSSIAN = (
    "Опишите одно транспортное средство на снимке дорожной камеры. Поисковая система использует ваши слова, чтобы "
    "отличить этот автомобиль от тысяч похожих. Сообщайте только то, что видно на снимке. Если вы не уверены в детали, "
    "пропустите её. Начните с цвета и типа кузова, затем назовите то, что отличает этот автомобиль: наклейки, полосы, "
    "вмятины, багажник на крыше, люк, двухцветная окраска, отсутствующие детали, предметы за лобовым стеклом."
)
MEASURED = {
    "chinese": (CHINESE, 173),
    "russian": (RUSSIAN, 147),
    "english": (JSON.system, 350),
    "long": ("\n".join([TEXT.system] * 3), 717),
}


@pytest.mark.parametrize("name", MEASURED)
def test_an_instruction_in_any_script_is_not_taken_for_a_picture(name: str) -> None:
    instruction, tokens = MEASURED[name]
    prompt = replace(TEXT, system=instruction)
    for vision, seen in ((256, 256), (640, 640), (640, 256), (256, 150)):
        blind = judge(Answer(GOOD, "stop", tokens + 20, 60, vision), prompt)
        assert isinstance(blind, Refusal)
        assert blind.reason == "no_image"
        assert isinstance(judge(Answer(GOOD, "stop", tokens + 20 + seen, 60, vision), prompt), Judged)


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        (GOOD, "not_json", "no JSON"),
        ('{"color": "white", "type"', "not_json", "no JSON"),
        ("[" * 100_000, "not_json", "no JSON"),
        ("[]", "schema_mismatch", "no object"),
        (json.dumps(structured(color="beige")), "schema_mismatch", "'beige', which is not one of the choices"),
        (json.dumps(structured(caption=[GOOD])), "schema_mismatch", "caption is no text"),
        (json.dumps(structured(engine="V8")), "schema_mismatch", "'engine', which was not asked for"),
        (json.dumps(structured(parts={"windows": "dark"})), "schema_mismatch", "parts has no field 'wheels'"),
        (json.dumps(structured(parts=structured()["parts"] | {"engine": "V8"})), "schema_mismatch", "'engine'"),
        (json.dumps(structured(caption=GOOD * 4)), "schema_mismatch", "characters, more than 480"),
        (json.dumps(structured(parts=structured()["parts"] | {"roof": "<i>roof</i>"})), "markup", "roof: "),
        (json.dumps(structured(parts=structured()["parts"] | {"roof": "屋顶是黑色的"})), "wrong_language", "roof: "),
        (json.dumps(structured(caption="\ud800" + GOOD)), "degenerate", "broken encoding"),
    ],
)
def test_each_kind_of_bad_object_is_refused_for_its_own_reason(text: str, reason: str, detail: str) -> None:
    verdict = judge(Answer(text, "stop"), JSON)
    assert isinstance(verdict, Refusal)
    assert verdict.reason == reason
    assert detail in verdict.detail


def free_schema() -> dict[str, Any]:
    """The schema of ``vehicle-json`` with any text for every fact."""
    assert JSON.json_schema is not None
    facts = dict.fromkeys(("color", "type", "viewpoint"), {"type": "string"})
    return JSON.json_schema | {"properties": JSON.json_schema["properties"] | facts}


FREE = replace(JSON, json_schema=free_schema(), min_words=1)
WORDS = st.sampled_from(
    [*GOOD.split(), "!!!!", "plate", "reads", "\n-", "{", '"', "京A12345", "\ud800", "the", "&#x1;"]
)
ANY_TEXT = st.one_of(st.text(), st.lists(WORDS).map(" ".join), st.text(st.characters()).map(lambda text: text * 9))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*structured(), "x"]) | st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT, finish=st.sampled_from([None, "stop", "length", "x"]), tokens=st.none() | st.integers())
def test_judging_never_raises_on_any_text(text: str, finish: str | None, tokens: int | None) -> None:
    for prompt in (TEXT, JSON, replace(TEXT, min_words=1)):
        verdict = judge(Answer(text, finish, tokens, tokens, tokens), prompt)
        shown = verdict.detail if isinstance(verdict, Refusal) else verdict.texts[0]
        assert shown.isprintable()
        assert shown.encode()


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*structured()]), ANY_JSON), value=ANY_JSON)
def test_judging_never_raises_on_any_object(changes: dict[str, Any], value: Any) -> None:
    for answer in (structured() | changes, value):
        for prompt in (JSON, FREE):
            verdict = judge(Answer(json.dumps(answer), "stop"), prompt)
            assert isinstance(verdict, Judged | Refusal)
            if isinstance(verdict, Judged):
                kept = [*verdict.texts, *verdict.part_texts.values(), *verdict.attributes.values()]
                assert all(text.strip() and text.isprintable() for text in kept)


def test_the_object_inside_chatter_is_found() -> None:
    text = json.dumps(structured())
    assert json_in(f"<think>a {{b}} c</think>Here you are:\n```json\n{text}\n```\nAnything else?") == text
    assert json_in("no object here") == "no object here"
    assert json_in("} {") == "} {"


def test_every_further_attempt_is_warmer_and_repeats_less() -> None:
    tries = [changed_sampling(TEXT.sampling, attempt) for attempt in range(4)]
    assert tries[0] == TEXT.sampling
    assert [one["temperature"] for one in tries] == [0.7, 0.9, 1.1, 1.2]
    assert [one["presence_penalty"] for one in tries] == [1.5, 1.75, 2.0, 2.0]
    assert changed_sampling({"temperature": 0}, 1) == {"temperature": 0.2, "presence_penalty": 0.25}
    assert all(one["top_p"] == TEXT.sampling["top_p"] for one in tries)


def test_every_reason_is_explained_in_the_documentation() -> None:
    explained = (Path(__file__).parents[3] / "docs" / "captions.md").read_text(encoding="utf-8")
    reasons = [reason for kind in get_args(Reason) for reason in get_args(kind)]
    assert len(reasons) >= 15
    assert [reason for reason in reasons if f"`{reason}`" not in explained] == []


def with_pattern(pattern: str) -> Any:
    schema = {"type": "object", "properties": {"caption": {"type": "string", "pattern": pattern}}}
    return replace(JSON, json_schema=schema | {"required": ["caption"], "additionalProperties": False})


def test_a_caption_has_to_match_the_pattern_of_the_prompt_somewhere() -> None:
    assert isinstance(judge(Answer(json.dumps({"caption": GOOD})), with_pattern(r"\bsunroof\b.+windows\.$")), Judged)
    for text in (GOOD + " It is seen at night.", "\ud800" * 30, ""):
        verdict = judge(Answer(json.dumps({"caption": text})), with_pattern(r"windows\.$"))
        assert isinstance(verdict, Refusal)
        assert (verdict.reason, verdict.detail) == ("schema_mismatch", r"caption does not match the pattern windows\.$")


def test_a_pattern_that_would_backtrack_for_ever_judges_as_soon_as_any_other() -> None:
    words = " ".join(["sunroof"] * 2000)
    for pattern in (r"^(\w+\s?)+\.$", r"^(([a-z])+.)+[A-Z]$", "(.*)*(.*)*(.*)*0$"):
        verdict = judge(Answer(json.dumps({"caption": words})), with_pattern(pattern))
        assert isinstance(verdict, Refusal)
        assert verdict.reason == "schema_mismatch"
