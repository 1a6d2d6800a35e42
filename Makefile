# Everything a fresh machine with Python 3.11 or newer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check lint docs bench lock clean

demo: $(INSTALLED)  ## condense the digits graph, rank filters on it, compare with the truth, write a report
	$(BIN)/hcdc run digits_graph --out runs/demo --resume
	@echo "Next: . $(BIN)/activate, open runs/demo/report.html, and then"
	@echo "  hcdc search runs/demo --num 1000                       # the best of 1,000 filters"
	@echo "  hcdc export runs/demo --format npz                     # the condensed graph as plain arrays"
	@echo "  hcdc search mine.csv --data.target column              # your own data; docs/own_data.md, docs/studies.md"

test: lint  ## style, types, then the suite without what needs minutes or a GPU; each file in one process, which compiles once
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu"

check: lint  ## style, types, and the tests of what changed since the last commit
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu" $$($(BIN)/python tests/affected.py)

lint: $(INSTALLED)  ## style and types; pyright is not to ask the network whether a newer one is out
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: $(INSTALLED)  ## the site, in build/site; a broken link or anchor is an error
	$(BIN)/pip install --quiet --disable-pip-version-check "mkdocs-material>=9.5"
	$(BIN)/mkdocs build --strict

bench: $(INSTALLED)  ## timings with peers and floors; see benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run

lock:  ## new versions for requirements.lock; needs uv
	uv pip compile pyproject.toml --extra test --extra lint --universal --python-version 3.11 --quiet \
	  --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) runs

$(INSTALLED): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
