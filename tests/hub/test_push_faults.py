"""What goes wrong on the way to the Hub: the push either gets there, or says so in a sentence and a rerun finishes."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as parquet
import pytest
from hub.conftest import Program
from hub.loopback_hub import Fault, LoopbackHub

NAME = "lab/ready"
PASSING = {
    "an upload that breaks off": Fault(r"PUT /lfs/", drop=True),
    "an upload that breaks off twice": Fault(r"PUT /lfs/", drop=True, skip=1, times=2),
    "another commit at the same time": Fault(r"POST .*/commit/", status=409, times=2),
    "too many requests for a commit": Fault(r"POST .*/commit/", status=429),
    "too many requests for an upload": Fault(r"PUT /lfs/", status=429, times=2),
    "a Hub that is being restarted": Fault(r"POST .*/(commit|preupload)/", status=503, times=3),
    "a repository that cannot be made at once": Fault(r"POST /api/repos/create", status=503),
    "a question that breaks off": Fault(r"GET /api/datasets/", drop=True, times=2),
    "an answer to a commit that is lost": Fault(r"POST .*/commit/", lose=True),
    "an answer to an upload that is lost": Fault(r"PUT /lfs/", lose=True),
    "trouble while it is loaded back": Fault(r"GET .*/resolve/", status=503),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_waited_for(program: Program, hub: LoopbackHub, ready: Path, fault: Fault) -> None:
    fault = replace(fault)
    hub.faults = [fault]
    done = program("pfcvr-data", "push", "-w", ready, NAME).result
    assert fault.times == 0
    assert done["rows"] == 18


STAYING = {
    "no connection": (Fault(r"", drop=True, times=10_000), "no connection to http://127.0.0.1:"),
    "uploads that break off": (Fault(r"PUT /lfs/", drop=True, times=10_000, skip=1), "no connection to http"),
    "too many requests": (
        Fault(r"POST .*/commit/", status=429, times=10_000),
        "the Hub wants fewer requests (429); run the same command again in an hour, it continues",
    ),
    "a Hub in trouble": (
        Fault(r"POST .*/commit/", status=503, times=10_000),
        "the Hub has trouble (503); run the same command again later, it continues",
    ),
    "others who keep committing": (
        Fault(r"POST .*/commit/", status=409, times=10_000),
        "somebody else is changing the repository (409); run the same command again in a while",
    ),
    "a commit in between": (
        Fault(r"POST .*/commit/", status=412, times=10_000),
        "somebody else changed the repository meanwhile (412); run the same command again",
    ),
    "a full account": (
        Fault(r"POST .*/commit/", status=413, times=10_000),
        "the Hub takes no files as large as these (413); ask for more storage on its page",
    ),
    "a request that is refused": (
        Fault(r"POST .*/commit/", status=400, times=10_000, message="hf_ownerownerowner is odd"),
        "the Hub refused it (400: ",
    ),
}


@pytest.mark.parametrize(("fault", "sentence"), STAYING.values(), ids=STAYING)
def test_what_stays_is_one_sentence_and_the_same_command_finishes_later(
    program: Program, hub: LoopbackHub, ready: Path, fault: Fault, sentence: str
) -> None:
    hub.faults = [replace(fault)]
    assert program("pfcvr-data", "push", "-w", ready, NAME).sentence.startswith(f"{NAME}: {sentence}")
    sent = {entry.path for entry in hub.asked("PUT /lfs/") if entry.status == 200}
    hub.faults = []
    hub.state.journal.clear()
    assert program("pfcvr-data", "push", "-w", ready, NAME).result["rows"] == 18
    assert not sent & {entry.path for entry in hub.asked("PUT /lfs/")}


def test_a_large_file_that_arrived_is_not_sent_again(program: Program, hub: LoopbackHub, ready: Path) -> None:
    hub.faults = [Fault(r"POST .*/commit/", status=413)]
    assert program("pfcvr-data", "push", "-w", ready, NAME).code == 1
    assert len(hub.asked("PUT /lfs/")) == 3
    assert program("pfcvr-data", "push", "-w", ready, NAME).result["rows"] == 18
    assert len(hub.asked("PUT /lfs/")) == 3


def test_bytes_that_arrive_differently_are_told(program: Program, hub: LoopbackHub, ready: Path) -> None:
    hub.state.swaps = {"croissant.json": b"{}"}
    sentence = program("pfcvr-data", "push", "-w", ready, NAME).sentence
    assert sentence == "lab/ready: croissant.json did not arrive as they are here; run the same command again"


def test_rows_that_come_back_otherwise_are_told(program: Program, hub: LoopbackHub, closed_set: Path) -> None:
    folder = Path(program("pfcvr-data", "push", "-w", closed_set, "lab/rows", "--dry-run").result["folder"])
    name = "data/train-00000-of-00001.parquet"
    table = parquet.read_table(folder / name)
    numbers = table.column_names.index("width")
    changed = table.set_column(numbers, table.schema.field(numbers), pc.add(table["width"], 1).cast("int32"))
    written = io.BytesIO()
    parquet.write_table(changed, written)
    hub.state.served = {name: written.getvalue()}
    sentence = program("pfcvr-data", "push", "-w", closed_set, "lab/rows").sentence
    assert sentence.startswith("lab/rows: other rows were loaded back than were published; run the same command again")
