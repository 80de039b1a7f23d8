"""Number plates in sentences: what reads one out is refused, what mentions one, a badge or a count is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.pipeline.captioners.judge import Answer, Judged, Refusal, judge
from pfcvr.pipeline.captioners.prompt import load_prompt

TEXT = load_prompt("vehicle-text")
REST = (
    "It has dark rear windows, slim headlights, five spokes in each silver wheel, a plain roof, a dented bumper, black "
    "mirrors and a round red sticker beside the tank cap."
)

READ_OUT = (
    "A white sedan, license plate number 7345.",
    "A white sedan with plate 12345.",
    "A white sedan with plate ABC 1234.",
    "A white sedan with plate XYZ 789.",
    "A white sedan with plate abc 123.",
    "A white sedan with plate MH12AB1234.",
    "A white sedan with plate mh12ab1234.",
    "A white sedan marked MH12AB1234 at the rear.",
    "A white sedan, plate number BMT 3492.",
    "A white sedan whose plate displays GX 88 K.",
    "A white sedan whose plate ends with 567.",
    "A white sedan whose plate number is 4821.",
    "A white sedan whose plate number is KXR.",
    "A white sedan with the registration KX07ABC.",
    "A white sedan with registration number 88 204.",
    "A white sedan with plate no. 7345.",
    "A white sedan with a plate, number 7345, at the front.",
    "A white sedan with a white plate, XYZ 7891, at the front.",
    "A white sedan whose license plate partially reads seven three.",
    "A white sedan whose plate shows the letters GXK.",
    "A white sedan whose plate on the front bumper shows the number 7345.",
    "A white sedan with license number 7345.",
    "A white sedan with the license tag 7ABC12.",
    "A white sedan with numberplate 7345.",
    "A white sedan with plates (7345).",
    "A white sedan with 7345 on its license plate.",
    "A white sedan with an ABC 1234 license plate.",
    "A white sedan whose licence plate begins with 12.",
    "A white sedan, PLATE 7345.",
)
NOT_READ_OUT = (
    "A white sedan whose plate number is not readable.",
    "A white sedan whose plate number is hidden by mud.",
    "A white sedan with a white license plate.",
    "A white sedan with two plates.",
    "A white sedan whose plate is blurred.",
    "A white sedan whose registration plate is unreadable.",
    "A white sedan with a plate with the number removed.",
    "A white sedan with a plate that's missing.",
    "A white sedan with a blank plate and 20-inch wheels.",
    "A white sedan with a yellow plate held by 2 screws.",
    "A white sedan with a license plate, 4 doors and a rack.",
    "A white sedan with a blue plate lit by 2 small lamps.",
    "A white sedan with a blurred plate below a BMW X5 badge.",
    "A white sedan with a white plate under the GLE450 badge.",
    "A white sedan whose license plate is mounted on the Mazda 3 bumper.",
    "A white sedan with a silver skid plate, 5-spoke rims.",
    "A white F-150 pickup with a dark plate.",
    "A white Mazda 3 with a white license plate.",
    "A white BMW X5 with a blue license plate.",
    "A white Peugeot 308 with plates in blue.",
    "A white XC90 whose plate cannot be read.",
    "A white truck with a plate and HOWO lettering.",
    "A white truck with a plate below the grille showing HOWO.",
    "A white van of the 1990s with 24H lettering.",
    "A white plate with EU stars on a white sedan.",
)


def verdict_on(start: str) -> Judged | Refusal:
    return judge(Answer(f"{start} {REST}", "stop"), TEXT)


@pytest.mark.parametrize("start", READ_OUT)
def test_a_plate_that_is_read_out_is_refused(start: str) -> None:
    verdict = verdict_on(start)
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason == "plate_text"


@pytest.mark.parametrize("start", NOT_READ_OUT)
def test_a_plate_that_is_there_and_not_read_out_a_badge_and_a_count_pass(start: str) -> None:
    assert isinstance(verdict_on(start), Judged), verdict_on(start)


@given(
    code=st.from_regex(r"[A-Za-z]{0,3}[ ]?[0-9]{3,5}[A-Za-z]{0,2}", fullmatch=True),
    between=st.sampled_from(["", "number ", "number is ", "with ", "shows ", "ends in ", "is marked as "]),
    head=st.sampled_from(["plate", "license plate", "number plates", "Registration", "licence number"]),
)
def test_no_digits_right_after_a_plate_pass(code: str, between: str, head: str) -> None:
    verdict = verdict_on(f"A white sedan whose {head} {between}{code} can be read.")
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason == "plate_text"


@given(st.from_regex(re.compile(r"[A-Z][a-z]{2,8} (?:[A-Z]{1,2}[0-9]{1,2}|[0-9]{1,3})", re.ASCII), fullmatch=True))
def test_models_with_numbers_pass_in_front_of_a_plate_that_is_not_read(model: str) -> None:
    verdict = verdict_on(f"A white {model} sedan with a license plate that is blurred.")
    assert isinstance(verdict, Judged), verdict
