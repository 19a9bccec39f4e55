# Two commands matter: `make run` and `make test`. Both set up what they need.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint bench clean peers
run: $(STAMP)
	$(BIN)/millrace demo

test: $(STAMP) peers
	$(BIN)/python -m tests.run

lint: $(STAMP)
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check -q src tests bench examples
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench

# Real clients that tests drive. Under MILLRACE_REQUIRE=all they are installed with apt; otherwise
# tests that lack theirs are skipped, and say so.
peers:
	@if [ "$$MILLRACE_REQUIRE" = all ]; then sh tests/real/install-peers; fi

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: apt-get install python3 python3-venv"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3-venv is needed: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install -q --disable-pip-version-check --no-compile -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) out build .pytest_cache .mypy_cache .ruff_cache .hypothesis
