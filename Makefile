# make setup: the environment; make demo: a first simulation and its report; make test: all checks, as CI runs them;
# make bench: all benchmarks of speed, a table of ratios, and which fell since benchmarks/baseline.json; make docs:
# docs/settings.md; make lock: requirements.lock; make bench-gpu: what a GPU gains; make test-long, make fuzz, make
# soak, make test-crash, make test-cluster, make test-report and make test-ec2: long tests.
PYTHON ?= python3
RUN := .venv/bin/python run.py

.PHONY: setup demo pictures test test-long test-crash test-cluster test-report test-ec2 bench bench-gpu docs fuzz soak lock clean

setup: .venv/.done

.venv/.done: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

demo: setup
	$(RUN) experiment=demo_sweep hydra/launcher=joblib hydra.launcher.n_jobs=2
	$(RUN) stage=report

# README's picture: the report of the demo. Needs Debian's package chromium.
pictures: demo
	chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
	  --user-data-dir=$$(mktemp -d) --window-size=1000,1270 --virtual-time-budget=5000 --hide-scrollbars \
	  --screenshot=docs/report.png file://$(CURDIR)/data/report/report.html

# Test files run in alphabetical order. Otherwise the few long tests of the guides come last, and one core waits.
test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20 -m "not long"

# What `make test` leaves out: long proofs, and those that show the same in more places. Seven minutes.
test-long: setup
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20 -m long

bench: setup
	.venv/bin/python -m benchmarks.ratios

# What half precision, XLA and several GPUs gain; needs a GPU and the packages of requirements-gpu.lock.
bench-gpu:
	.venv/bin/python -m benchmarks.gpu

docs: setup
	.venv/bin/python -m tests.test_docs

# Classifications with corrupted bytes, cells, columns and versions: nothing crashes, all totals add up, and DuckDB and
# Python count the same. And every setting with every kind of wrong value. Ten minutes.
fuzz: setup
	FUZZ_LINES=100000 .venv/bin/pytest tests/test_intake.py tests/test_votes_edges.py -k "mangled or random"
	WALK_ALL=1 .venv/bin/pytest -s tests/test_any_setting.py -k walk

# A simulation of a hundred iterations: its driver's memory does not grow. A quarter of an hour.
soak: setup
	.venv/bin/python -m benchmarks.memory

# Every operation of a stage fails in every way, 100 kills during real training, 1,000 races, 1,000 flipped bytes. Half
# an hour on two cores.
test-crash: setup
	CRASH_ALL=1 .venv/bin/pytest -s tests/test_crash.py tests/test_crash_live.py

# engine=ray whole: drivers that are killed, sweeps, a Ray of its own. Two minutes.
test-cluster: setup
	.venv/bin/pytest tests/test_ray.py

# The report in a browser, at two widths, light and dark. It needs Debian's package chromium. A minute.
test-report: setup
	REPORT_ALL=1 .venv/bin/pytest -s tests/test_report.py tests/test_report_page.py tests/test_report_browser.py

# launch/ with a kill and a refusal at every call, thirty days, and real installations of packages. Six minutes.
test-ec2: setup
	EC2_ALL=1 .venv/bin/pytest -n 2 tests/test_launch*.py

# Exact versions with hashes, for every supported Python; needs uv.
lock:
	uv pip compile pyproject.toml --extra cpu --extra live --extra dashboard --extra ec2 --extra sweep --extra ray --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra gpu --extra live --universal --python-version 3.11 -c requirements.lock \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet -o requirements-gpu.lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
