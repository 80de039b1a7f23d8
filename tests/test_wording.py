"""What sentences say of numbers and of things that have changed."""

from pfcvr.wording import amount, differences


def test_one_is_singular_and_all_other_numbers_are_plural() -> None:
    assert [amount(number, "image") for number in (0, 1, 2, 12_000)] == [
        "0 images", "1 image", "2 images", "12,000 images",
    ]  # fmt: skip


def test_what_differs_is_named_with_both_values_and_what_is_equal_is_not() -> None:
    before = {
        "version": 2,
        "settings": {"seed": 1, "grid": {"rows": 24, "cols": 24}, "old": {}},
        "inputs": {"a": "0" * 64},
    }
    now = {
        "version": 2,
        "settings": {"seed": 2, "grid": {"rows": 24, "cols": 12}},
        "inputs": {"a": "f" * 64, "b": "e" * 64},
    }
    assert differences(before, now) == (
        "grid.cols (24 before, 12 now), old ({} before, none now), seed (1 before, 2 now), "
        "a (00000000 before, ffffffff now), b (none before, eeeeeeee now)"
    )
    assert differences({"version": 1}, {"version": 2}) == "version (1 before, 2 now)"
