# make demo: from nothing to a map of a demo scene.   make test: lint, types, tests.   Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test check-slow fuzz mutants lint types docs wheel sizes clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	@mkdir -p demo
	@test -f demo/scene.tif || $(BIN)/geouq simulate demo/scene.tif --size 2048 --seed 7 --truth demo/truth.tif
	$(BIN)/geouq segment demo/scene.tif -o demo/water.tif --samples 20 \
		--vector demo/water.gpkg --preview demo/water.png --overwrite
	@echo
	@echo "map:      demo/water.tif   (bands mask, uncertainty, confidence; opens styled in QGIS)"
	@echo "polygons: demo/water.gpkg  (area with its 5-95 % interval)"
	@echo "picture:  demo/water.png"

# so many test files at once; JOBS=0: one after the other, in one process
JOBS ?= 2
test: $(VENV)/.installed-dev lint types
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile --durations=10

# the slow tests, and the property tests on other examples each time
check-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile=default --durations=10

# 20 minutes of damaged and hostile files; MINUTES=1 for a look
MINUTES ?= 20
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

# small mistakes in the code that tests must notice
mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutants

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict
	@echo "site:     site/index.html"

# Both archives, and the wheel tried where nothing of geouq is but what it brings.
wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m tests.package dist

sizes:
	@wc -l geouq/*.py geouq/*/*.py cli/*.py | sort -n

clean:
	rm -rf $(VENV) build dist site *.egg-info demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
