# The one door to every task. `make help` lists them.
#
# Each task sets up what it needs in .venv; a stamp file makes the second run instant.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready-
SOURCES := src tests examples benchmarks interop scripts

.DEFAULT_GOAL := help
.PHONY: help demo test conformance differential fuzz lint format parity interop istiod bench docs clean
# A stamp is only written when its setup worked.
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

demo: $(STAMP)demo ## the story: a mesh of two services, steered live (ARGS=--serve keeps it running)
	@$(BIN)/meshlib demo $(ARGS)

test: $(STAMP)test ## every test (ARGS="tests/policy -k retry" picks some)
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

conformance: $(STAMP)test ## what the real Envoy did, case by case (CASES=folder, ARGS="--only retry")
	@$(BIN)/python tests/oracle/conformance.py $(if $(CASES),--cases "$(CASES)") $(ARGS)

differential: $(STAMP)test ## 10,000 random requests, routed by meshlib and the real Envoy (ARGS="--decisions 1000 --seed 7")
	@$(BIN)/python tests/oracle/differential.py $(ARGS)

fuzz: $(STAMP)test ## 100,000 damaged xDS responses (ARGS="--seeds 1000 --first 7")
	@$(BIN)/python tests/honesty/fuzzing.py $(ARGS)

lint: $(STAMP)lint ## ruff, mypy --strict, import contracts, reasons of every exemption
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/python scripts/count_exemptions.py $(SOURCES)

format: $(STAMP)lint ## let ruff rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

parity: $(STAMP)test ## our translation beside istiod's (CASES=dir for other captures, BOOK=dir for the book's YAML)
	@PYTHONPATH=tests $(BIN)/python tests/controlplane/parity.py $(CASES) $(ARGS)

interop: $(STAMP)test ## our client against Envoy's Go control plane, and its Go types (needs Go)
	@command -v go >/dev/null || { echo "make interop needs Go: no 'go' on PATH. Install it (https://go.dev/dl, or golang-go of your distribution; version: see interop/go.mod)" >&2; exit 2; }
	cd interop && go vet . && go build -o ../build/interop/interop .
	$(BIN)/pytest interop/test_go_control_plane.py $(ARGS)

istiod: $(STAMP)test ## our client against a real istiod, plaintext and TLS, and a real istioctl (needs Go; builds for minutes)
	@command -v go >/dev/null || { echo "make istiod needs Go: no 'go' on PATH. Install it (https://go.dev/dl, or golang-go of your distribution; version: see interop/istio/go.mod)" >&2; exit 2; }
	cd interop/istio && go build -o ../../build/interop/ istio.io/istio/pilot/cmd/pilot-discovery istio.io/istio/istioctl/cmd/istioctl
	$(BIN)/pytest interop/test_istiod.py $(ARGS)

bench: $(STAMP)test ## one benchmark: make bench NAME=httpx
	@test -n "$(NAME)" || { echo "which one? make bench NAME=..., of: $(patsubst benchmarks/bench_%.py,%,$(wildcard benchmarks/bench_*.py))" >&2; exit 2; }
	@$(BIN)/python benchmarks/bench_$(NAME).py $(ARGS)

docs: $(STAMP)docs ## the documentation as HTML, in build/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

clean: ## remove .venv and everything built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP)%: pyproject.toml scripts/setup_venv.py
	@$(PYTHON) scripts/setup_venv.py $*
	@touch $@
