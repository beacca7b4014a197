# make demo   set everything up in a local environment and run the main job
# make test   set everything up and pass the checks and tests
#
# Options: VENV=<folder>  PYTHON=<program>  TORCH_INDEX=<url>, explained in scripts/setup.sh

VENV ?= .venv
export VENV PYTHON TORCH_INDEX

# What a sourced ROS sets must not leak into the environment's own ROS, nor what a Python that started make has set.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONHOME PYTHONPATH VIRTUAL_ENV
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

python := $(VENV)/bin/python

.PHONY: demo test lint slow-test benchmark setup clean distclean

demo: setup
	$(python) -m occ_perception.cli demo

test: lint
	$(python) -m pytest

lint: setup
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

# Full-size models and long runs
slow-test: setup
	$(python) -m pytest -m slow

benchmark: setup
	set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(python) "$$file"; done

setup:
	@scripts/setup.sh

# What builds, checks and runs left behind
clean:
	rm -rf build install log compat/tf2_msgs/build *.egg-info compat/tf2_msgs/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache demo/out benchmarks/out

# The environment too
distclean: clean
	test ! -e "$(VENV)/pyvenv.cfg" || rm -rf "$(VENV)"
