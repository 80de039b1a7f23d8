# Nothing but python3 (3.11 or newer) and make is needed before; every target sets up what it uses.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two cores are the smallest machine this is meant for; test workers share them with torch.
TEST_WORKERS ?= 2

.PHONY: setup test test-backends check demo format docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[model,parts,segment-anything,dev]'
	touch $(READY)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

# Real vLLM and groundingdino-py, in environments that are built beside the clone (6 GB each; elsewhere: make
# test-backends PFCVR_ENVIRONMENTS=/folder). One at a time: a server takes both cores.
test-backends: $(READY)
	$(BIN)/python scripts/environments.py vllm groundingdino
	$(BIN)/python -m pytest -m backends --durations=15

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

demo: $(READY)
	$(BIN)/python scripts/demo.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The command reference is what --help prints; a test fails while docs/cli.md is stale.
docs: $(READY)
	$(BIN)/python scripts/cli_reference.py > docs/cli.md

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
