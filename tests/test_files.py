"""Files that are whole or absent."""

from pathlib import Path

import pytest

from pfcvr.files import atomic_write


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_breaks_off_while_it_is_written_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"earlier")

    def break_off() -> None:
        with atomic_write(path) as file:
            file.write(b"half of")
            raise error

    with pytest.raises(error):
        break_off()
    assert [found.name for found in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"earlier"


def test_what_is_written_to_its_end_replaces_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"earlier")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"earlier"
    assert [found.name for found in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"new"
