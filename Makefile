# Each target sets up what it needs in .venv. `make help` lists them.
PYTHON ?= python3
MODEL = demo
ARGS =
TORCH_INDEX ?=
OMP_NUM_THREADS ?= 1

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP_INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test coverage lint soak fuzz bench screenshot judge clean

help:
	@echo 'make demo    start a server, edit one image through it, stop it'
	@echo 'make serve   start the server and leave it running'
	@echo 'make test    lint, types, import layers and the tests'
	@echo 'make coverage   the tests with more edits and more real workers, and what they cover'
	@echo 'make lint    lint, types and import layers only'
	@echo 'make soak    200 jobs under kills, hangs and a full disk; a minute of load'
	@echo 'make fuzz    10,000 bad requests'
	@echo 'make bench   measure the speed of the server'
	@echo 'make screenshot   take the image of the page in README.md; needs Chromium'
	@echo 'make judge   test and measure the demo model, and write the figures to its card'
	@echo 'make clean   remove .venv, caches and build files; keep weights/ and data/'
	@echo
	@echo 'Variables:'
	@echo '  PYTHON=python3.12   Python 3.11 or newer; python3 by default'
	@echo '  MODEL=NAME          the model of `make demo`: demo (default), a name under'
	@echo '                      weights/models, a directory or a cached hub id'
	@echo '  ARGS="--port 9000"  options of `make serve`; for `make bench`, the benchmarks to'
	@echo '                      run: ARGS="http polling lora"'
	@echo '  TORCH_INDEX=URL     index for torch. Without a GPU, this saves several GB:'
	@echo '                      make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu'

demo: $(STAMP)
	@$(BIN)/python docs/demo/edit.py --model '$(MODEL)'

serve: $(STAMP)
	@$(BIN)/qwen-edit serve $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread: on few and busy cores torch's default makes the same edit many times slower.
# Two processes: most tests wait for a server. A file stays in one, to share its servers.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
test: $(STAMP)
	@start=$$(date +%s); \
	$(MAKE) --no-print-directory lint && $(PYTEST) --durations=15; \
	status=$$?; \
	echo "make test took $$(($$(date +%s) - start)) s"; \
	exit $$status

coverage: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
coverage: $(STAMP)
	$(PYTEST) --complete --cov --cov-report=term

# Minutes of kills, hangs and a full disk, and of load; a short run of the first is in `make test`.
soak: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
soak: export QWEN_SOAK_JOBS ?= 200
soak: $(STAMP)
	$(BIN)/python -m pytest --complete tests/soak

# Bad requests to every submit and account route; a share of them is in `make test`.
fuzz: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
fuzz: export QWEN_FUZZ_REQUESTS ?= 10000
fuzz: $(STAMP)
	$(BIN)/python -m pytest -s tests/fuzz

bench: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
bench: $(STAMP)
	$(BIN)/python -m benchmarks.run $(ARGS)

screenshot: $(STAMP)
	@$(BIN)/python docs/screenshot.py docs/page.png

judge: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
judge: $(STAMP)
	$(BIN)/python -m pytest --complete tests/demo_model
	$(BIN)/python -m demo_model evaluate --threads $(OMP_NUM_THREADS)

clean:
	rm -rf $(VENV) demo-output build dist htmlcov *.egg-info .coverage .coverage.*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find server pipelines demo_model tests benchmarks docs deploy -name __pycache__ -type d -prune -exec rm -rf {} +

# torch alone comes from TORCH_INDEX: that index need not hold the pinned versions of the rest.
$(STAMP): $(SETUP_INPUTS)
	@command -v $(PYTHON) >/dev/null || { \
		echo 'error: there is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12' >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'error: $(PYTHON) lacks its venv module. On Debian and Ubuntu: apt install python3-venv' >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) install -c constraints.txt -e '.[demo,page,dev]'
	@touch $(STAMP)
