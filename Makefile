# All targets do all their own set-up: a virtual environment in .venv, nothing asked.
PYTHON ?= python3
VENV   ?= .venv
# uv does not read pip's settings; a folder of wheels that pip knows is passed on to it.
UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS

.PHONY: demo english findings test real bench docs lock newest
demo: $(VENV)/.installed
	$(VENV)/bin/interp demo

# The demo on a real model of English, with an untrained copy as the control. Fetches 93 MB once.
english: $(VENV)/.installed
	$(VENV)/bin/interp get smollm2
	$(VENV)/bin/interp run --model smollm2 --prompts her --target her --control random-init \
	  --out interp-english --overwrite

# One process for each core, each with one thread; a file stays in one process, with its fixtures.
test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

# The tests on real models, vectors and a real tagger. Fetches 265 MB once.
real: $(VENV)/.real-installed
	for name in smollm2 minilm glove spacy-en; do $(VENV)/bin/interp get $$name || exit 1; done
	$(VENV)/bin/python -m pytest -q -m real tests

# The page of findings on a real model, measured anew: about 15 minutes on two cores.
findings: $(VENV)/.real-installed
	$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python pillow -c constraints.txt
	for name in smollm2 minilm glove spacy-en; do $(VENV)/bin/interp get $$name || exit 1; done
	$(VENV)/bin/python -m docs.findings_build

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks $(BENCH)

# The documentation site, into site/; open site/index.html. A warning or a broken link is an error.
docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# The newest versions that pyproject.toml allows, into constraints.txt. Run the tests afterwards.
lock: $(VENV)/bin/uv
	$(VENV)/bin/python .ci/lock.py

# What an install without constraints gets today, in an environment of its own; torch stays as it is.
newest: $(VENV)/bin/uv
	$(VENV)/bin/python .ci/newest.py

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q uv -c constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -e '.[test]' \
	  -c constraints.txt --build-constraints constraints.txt
	touch $@

$(VENV)/.real-installed: pyproject.toml constraints.txt | $(VENV)/.installed
	$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -e '.[test,linguistics,words]' \
	  -c constraints.txt --build-constraints constraints.txt
	touch $@

$(VENV)/.docs-installed: pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -e '.[docs]' \
	  -c constraints.txt --build-constraints constraints.txt
	touch $@
