# Needs Python >= 3.10 and make; everything else is installed into .venv from requirements.lock. Where there is a C++
# compiler, the kernels must build; elsewhere minilm works without them.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.stamp
COMPILER := $(shell command -v $${CXX:-c++} || command -v g++ || command -v clang++)
MINILM_KERNELS ?= $(if $(COMPILER),require)
export MINILM_KERNELS

.DEFAULT_GOAL := help
.PHONY: help venv quickstart kernels test test-fast test-install check-kernels check-emulated check-triton mutants fuzz lint check bench clean

help:
	@echo "make venv          create .venv with the tested package versions"
	@echo "make kernels       compile the kernels again if their sources have changed"
	@echo "make quickstart    distill, fine-tune and compare the installed model, offline"
	@echo "make test          run all tests"
	@echo "make test-fast     run the unit tests not marked slow, in about a minute"
	@echo "make lint          lint, format, types"
	@echo "make check         the same, and the house rules"
	@echo "make test-install  install the wheel, the sdist and the lowest supported versions in new environments (needs a package index)"
	@echo "make check-kernels run the tests of the kernels with AddressSanitizer and UBSan (needs g++)"
	@echo "make check-emulated  run them for instruction sets that this processor lacks (needs g++ and AVX2)"
	@echo "make check-triton  run the tests of the kernels for GPUs in Triton's interpreter, and compile them (needs a package index)"
	@echo "make mutants       change the code in 60 places, one at a time, and count the changes that tests catch"
	@echo "make fuzz          damage model folders, data files and recipes at random for a minute each; SEED=N SECONDS=N"
	@echo "make bench         run the benchmarks; MACHINE=NAME names the files of their results"
	@echo "make clean         remove .venv, caches and build outputs (keeps runs/)"

venv: $(STAMP)

# Packages are compiled when they are first imported: most of their modules never are, and pip takes minutes for all.
$(STAMP): requirements.lock pyproject.toml hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "minilm needs Python >= 3.10, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --quiet --no-compile -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e .
	touch $(STAMP)

kernels: venv
	$(PY) hatch_build.py

quickstart: kernels
	.venv/bin/minilm quickstart --out runs/quickstart

test: kernels
	$(PY) -m pytest

test-fast: kernels
	$(PY) -m pytest tests/unit -m "not slow"

test-install: venv
	MINILM_TEST_BUILDS=1 $(PY) -m pytest tests/install
	$(PY) tests/install/run.py

SANITIZERS = $(shell g++ -print-file-name=libasan.so) $(shell g++ -print-file-name=libstdc++.so)
check-kernels: venv
	CXX=g++ $(PY) hatch_build.py --sanitize
	MINILM_KERNELS_LIBRARY=build/sanitize/libminilm_kernels.so LD_PRELOAD="$(SANITIZERS)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(PY) -m pytest tests/kernels -k "not neon"

check-emulated: venv
	CXX=g++ $(PY) hatch_build.py --emulated
	MINILM_KERNELS_LIBRARY=build/emulated/libminilm_kernels.so $(PY) -m pytest \
	tests/kernels tests/parity/test_native_engine.py tests/unit/infer/engines tests/unit/export

# PyTorch for CUDA brings Triton; that for CPUs does not. It compiles for GPUs that are not there.
TRITON = build/triton
check-triton: kernels
	test -d $(TRITON)/triton || $(PY) -m pip install --disable-pip-version-check --quiet --target $(TRITON) triton==3.9.0
	PYTHONPATH=$(TRITON) TRITON_INTERPRET=1 $(PY) -m pytest tests/kernels/test_relations_triton.py tests/parity/test_relations.py
	PYTHONPATH=$(TRITON) $(PY) -m pytest -n0 tests/kernels/test_relations_triton.py -k compiles

mutants: kernels
	$(PY) tests/mutants/run.py
	$(PY) tests/mutants/kernels.py

SEED ?= 0
SECONDS ?= 60
fuzz: venv
	$(PY) tests/fuzz/run.py --seed $(SEED) --seconds $(SECONDS)

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

check: lint kernels
	$(PY) -m pytest -q tests/house

MACHINE ?= this-machine
bench: kernels
	@mkdir -p $(addprefix benchmarks/results/,encode shapes distill_step relation_loss teacher_cache)
	.venv/bin/minilm bench encode --json benchmarks/results/encode/$(MACHINE).json
	.venv/bin/minilm bench model --json benchmarks/results/shapes/$(MACHINE).json
	@for name in distill_step relation_loss teacher_cache; do echo "== $$name"; \
	$(PY) benchmarks/$$name.py --json benchmarks/results/$$name/$(MACHINE).json || exit 1; done
	@for name in decode seq2seq_step startup; do echo "== $$name"; $(PY) benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f src/minilm/kernels/*.so src/minilm/kernels/build.log
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
