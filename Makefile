VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Processes that run the tests side by side, a test file each at a time. 0 runs all tests in one process, where a
# debugger works:  make WORKERS=0 test
WORKERS ?= 2
# `make lowest`: numpy 2.0 and other lowest versions have wheels for this Python, not for every newer one.
LOWEST := .venv-lowest
LOWEST_PYTHON ?= python3.11

# `make s3`: moto needs an older python-dateutil than other packages, so it has an environment of its own.
S3 := .venv-s3

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test slow lowest spark s3 real check docs format lint types bench bench-quick clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## install notellm and the development tools into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@echo "[1/2] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/2] notellm and the development tools, versions of constraints.txt (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv ## everything once on built-in data, without any download; ends by saying how to look at it
	@$(BIN)/notellm demo
	@echo "notellm is installed in $(VENV): run  . $(BIN)/activate  first, or write $(BIN)/notellm"
	@echo "To look at it in a browser:  $(BIN)/notellm demo --serve"

test: venv ## the tests, except slow ones and those on real data, in WORKERS processes (2)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not real and not spark and not s3"

slow: venv ## the tests that run, and kill, whole jobs
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

lowest: $(LOWEST)/.installed ## quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	@HF_HUB_OFFLINE=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not real and not spark and not s3" \
		--ignore=tests/jobs --ignore=tests/cli --ignore=tests/test_readme.py \
		--ignore=tests/serve/test_browser.py

$(LOWEST)/.installed: pyproject.toml tools/lowest.py
	@$(LOWEST_PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python tools/lowest.py > $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt \
		-e '.[all,milvus-lite,test]'
	@touch $@

spark: venv ## pairs in a local Spark (needs Java; installs pyspark, some 400 MB)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[spark]'
	@$(BIN)/python -m pytest -m spark

s3: venv ## a store in object storage, in a real S3 server (moto, installed into .venv-s3)
	@test -x $(S3)/bin/moto_server || { $(PYTHON) -m venv $(S3) && \
		$(S3)/bin/python -m pip install --quiet --disable-pip-version-check 'moto[s3,server]>=5.2,<6'; }
	@NOTELLM_S3_SERVER=$(S3)/bin/moto_server $(BIN)/python -m pytest -m s3

real: venv ## the tests on real data (NOTELLM_DATA, else ../shared/data)
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m real

check: lint types docs test slow ## all that a change must pass: format, lint, layers, types, documentation, tests

docs: venv ## the documentation site into build/docs/site, with its links checked
	@$(BIN)/python tools/documentation.py

format: venv ## format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

lint: venv ## ruff: format and rules; import-linter: which layer imports which; licences of what is installed
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python tools/licences.py --check > /dev/null

types: venv ## mypy, strict
	@$(BIN)/mypy

bench: venv ## all benchmarks, into benchmarks/results (hours; needs real data)
	@$(BIN)/python -m benchmarks.pairs
	@$(BIN)/python -m benchmarks.microlens
	@$(BIN)/python -m benchmarks.movielens
	@$(BIN)/python -m benchmarks.tagging
	@$(BIN)/python -m benchmarks.classifier
	@$(BIN)/python -m benchmarks.collaborative
	@$(BIN)/python -m benchmarks.ranking
	@$(BIN)/python -m benchmarks.scoring
	@$(BIN)/python -m benchmarks.caches
	@$(BIN)/python -m benchmarks.recommend
	@$(BIN)/python -m benchmarks.service --work build/catalogue
	@$(BIN)/python -m benchmarks.durability --work build/catalogue
	@$(BIN)/python -m benchmarks.index --work build/catalogue
	@$(BIN)/python -m benchmarks.moving

bench-quick: venv ## operations of the hot paths, compared with the committed counts (half a minute, no real data)
	@$(BIN)/python -m benchmarks.counts

clean: ## remove what the targets made, but results
	@rm -rf .venv $(LOWEST) $(S3) .cache build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
