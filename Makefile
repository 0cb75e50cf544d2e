# `make demo`: install, sample the model that comes with gankit, train for three minutes, write demo/index.html
# `make test`: install, run the tests          `make lint`: ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := $(addprefix plugins_contrib/gankit-,avatars cpu)

.PHONY: demo test test-slow lint clean

demo: $(STAMP)
	$(BIN)/python -m gankit demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo/index.html demo/images demo/run

$(STAMP): pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[test]" $(PACKAGES:%=-e %)
	touch $@

$(VENV)/.linted: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[lint]"
	touch $@
