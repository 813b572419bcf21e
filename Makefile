# All targets do all their own set-up: a virtual environment in .venv, nothing asked.
PYTHON ?= python3
VENV   ?= .venv
# uv does not read pip's settings; a folder of wheels that pip knows is passed on to it.
UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS

.PHONY: demo test bench
demo: $(VENV)/.installed
	$(VENV)/bin/interp demo

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks $(BENCH)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q uv
	$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -e '.[test]' -c constraints.txt
	touch $@
