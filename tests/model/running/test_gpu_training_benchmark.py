"""The GPU benchmark runs on the CPU too, and its figures follow from one another."""

import json

import gpu_training
import pytest

SMALLEST = ("--device", "cpu", "--size", "tiny", "--batch", "2", "--batch", "3", "--rounds", "1", "--compile", "off")


def test_it_reports_each_batch_as_an_object_and_as_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_training.py", *SMALLEST, "--json"])
    gpu_training.main()
    found = json.loads(capsys.readouterr().out)
    rows = found.pop("rows")
    assert found == {"device": "CPU", "variant": "paper", "size": "tiny", "too_large": []}
    assert [(row["batch"], row["compiled"], row["gradient_checkpointing"]) for row in rows] == [
        (2, False, False),
        (3, False, False),
    ]
    for row in rows:
        assert row["hours"] == pytest.approx(60 * 10_265 / row["samples"] / 3600), "60 epochs of 10,265 images"
        assert 0 < row["share"] < 1
        assert row["matrix_tflops"] > 0
        assert row["peak_gib"] == 0, "memory of a GPU is counted, of which there is none"

    gpu_training.report(found | {"too_large": [256]}, [gpu_training.Row(**row) for row in rows], as_json=False)
    title, head, *lines, last = capsys.readouterr().out.splitlines()
    assert title == "CPU, variant paper, tiny, bf16"
    assert head.split() == ["batch", "compile", "samples/s", "TFLOP/s", "share", "peak", "GiB", "t2i-verw", "h"]
    assert [line.split()[:2] for line in lines] == [["2", "off"], ["3", "off"]]
    assert lines[1].split()[-1] == f"{rows[1]['hours']:.2f}"
    assert last.split() == ["256", "pairs", "do", "not", "fit"]
