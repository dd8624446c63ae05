# make demo   set up, then learn from handwritten digits and measure the encoder
# make test   set up, then every check there is: format, lint, types, import directions, tests (their bytecode is kept,
#             which else takes each of the two processes 7 s to write anew)
# make learns the slow tests, which train for minutes and must reach stated figures
# make compiles  every recipe of views, compiled by torch, against the steps one by one; the fused kernels compiled for
#               cards that need not be there: minutes of compiling
# make gpu      what a CUDA device promises beside the CPU (needs one)
# make oldest  set up with the oldest torch that is supported, then the default tests
# make hosts  two hosts on this machine, in network namespaces (needs root), train together
# make bench  measure what docs/performance.md states (about an hour), and write it; make bench-page writes it alone
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
comma  := ,
install = if command -v uv >/dev/null; \
	  then uv pip install --quiet --python $(BIN)/python -e '.[$(1)]'; \
	  else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'; fi

.PHONY: demo test check learns compiles gpu oldest hosts bench bench-page clean

demo: $(VENV)/ready
	$(BIN)/python examples/digits.py

test: check

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

learns: $(VENV)/ready
	$(BIN)/python -m pytest -m learns -s

compiles: $(VENV)/ready
	$(BIN)/python -m pytest -m compiles

gpu: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu -rs

oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	  'torch==2.8.*' 'torchvision==0.23.*' -e '.[all,dev]'
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -n 2 --dist worksteal

hosts: $(VENV)/ready
	$(BIN)/python -m pytest -m hosts -rs

bench: $(VENV)/ready-bench
	$(BIN)/python bench/all.py
	$(MAKE) bench-page

bench-page: $(VENV)/ready-bench
	$(BIN)/python bench/plots.py
	$(BIN)/python bench/table.py

# A file that stands for a complete environment: made again when the dependencies or the compiled kernel change.
$(VENV)/ready: pyproject.toml hatch_build.py src/selfsame/modalities/image/kernel.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "selfsame needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(call install,all$(comma)dev)
	touch $@

$(VENV)/ready-bench: $(VENV)/ready
	$(call install,bench)
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest runs
