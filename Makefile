# Two commands for a newcomer, on a machine with Python 3.11 to 3.13 and make:
#
#     make demo    train, evaluate, predict and export GLEE's tiny variant on sample data (about five minutes)
#     make test    the whole test suite
#
# Both first prepare .venv (`make setup`), once: from the package index, at the versions of constraints.txt, with
# nothing to compile. Set PYTHON=python3.12 to choose an interpreter, CI=1 or NO_COLOR=1 for plain logs.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
DEMO ?= runs/demo
DEMO_VISPER ?= runs/demo-visper
DEMO_VIDEO ?= runs/demo-video
DEMO_GRIFFON ?= runs/demo-griffon
DEMO_GLAMM ?= runs/demo-glamm

PUBLISHED ?=
BESIDE := $(if $(PUBLISHED),--published $(PUBLISHED))

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MMCORE := $(BIN)/python -m mmcore
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
PLUGINS := $(patsubst %/pyproject.toml,%,$(filter plugins/%,$(PROJECTS)))
# What a plugin's tests need beyond its own requirements.
EXTRAS_visper := [convnext]
REQUIREMENTS := -e ".[dev]" $(foreach plugin,$(PLUGINS),-e "./$(plugin)$(EXTRAS_$(notdir $(plugin)))")

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# DeepSpeed comes as source; without this it may try to compile its CUDA operators. It builds them on first use instead.
export DS_BUILD_OPS := 0
# OpenMP threads that spin while they wait stop one another as soon as two programs share the cores.
export OMP_WAIT_POLICY := PASSIVE
# Nobody asked for messages home.
export HF_HUB_DISABLE_TELEMETRY := 1
ifneq ($(CI)$(NO_COLOR),)
export NO_COLOR := 1
export PIP_NO_COLOR := 1
export PIP_PROGRESS_BAR := off
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-video demo-visper demo-glamm demo-griffon test test-slow lint format types bench docs pictures wheels clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Prepare .venv; does nothing when it is up to date

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): constraints.txt $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "error: mmcore needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)"; \
	  echo "  do:  install one of them, then: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments"; \
	  echo "  do:  install its venv package (Debian and Ubuntu: apt install python3-venv)"; exit 2; } >&2
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip
	$(BIN)/python -m pip install -c constraints.txt $(REQUIREMENTS)
	@touch $@

demo: export MMCORE_CACHE := $(CURDIR)/.cache
demo: $(STAMP) ## Train, evaluate, predict and export on sample data; an interrupted one goes on
	@if test -f $(DEMO)/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO); \
	else set -x; $(MMCORE) train --plugin glee --stage 2 --demo --out $(DEMO); fi
	@rm -rf $(DEMO)/found $(DEMO)/exports/upstream
	$(MMCORE) eval $(DEMO) --on coco_val
	$(MMCORE) predict $(DEMO) $$(ls $(MMCORE_CACHE)/demo/coco/val2017/*.jpg | head -3) --threshold 0.25 --out $(DEMO)/found
	$(MMCORE) export $(DEMO) --format upstream --out $(DEMO)/exports/upstream
	$(MMCORE) report $(DEMO)
	@printf '\nLook at:\n'
	@ls -1 $(DEMO)/curves.png $(DEMO)/pictures/*/over-time.jpg $(DEMO)/found/*.png $(DEMO)/exports/upstream/*.safetensors

demo-video: export MMCORE_CACHE := $(CURDIR)/.cache
demo-video: $(STAMP) ## GLEE: three image stages, then clips, each from the last; follow things; under ten minutes
	@init=""; for stage in pretrain joint scaleup video; do \
	  short=""; test $$stage != joint || short="--set steps=400 --set schedule.milestones=[340] --set eval_every=400"; \
	  if test -f $(DEMO_VIDEO)/$$stage/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_VIDEO)/$$stage || exit 1; \
	  else set -x; $(MMCORE) train --plugin glee --stage $$stage --demo $$init $$short --out $(DEMO_VIDEO)/$$stage || exit 1; fi; \
	  { set +x; } 2>/dev/null; init="--init $(DEMO_VIDEO)/$$stage"; done
	@rm -rf $(DEMO_VIDEO)/followed
	$(MMCORE) predict $(DEMO_VIDEO)/video $$(ls -d $(MMCORE_CACHE)/demo/clips/val/*/ | head -3) --video --threshold 0.3 \
	  --out $(DEMO_VIDEO)/followed
	@printf '\nLook at:\n'
	@ls -1 $(DEMO_VIDEO)/*/curves.png $(DEMO_VIDEO)/followed/*

demo-visper: export MMCORE_CACHE := $(CURDIR)/.cache
demo-visper: $(STAMP) ## VisPer-LM: learn captions, then questions; answer some; about nine minutes on two cores
	@if test -f $(DEMO_VISPER)/pt/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_VISPER)/pt; \
	else set -x; $(MMCORE) train --plugin visper --stage pt --demo --out $(DEMO_VISPER)/pt; fi
	@if test -f $(DEMO_VISPER)/ift/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_VISPER)/ift; \
	else set -x; $(MMCORE) train --plugin visper --stage ift --demo --init $(DEMO_VISPER)/pt --out $(DEMO_VISPER)/ift; fi
	@rm -rf $(DEMO_VISPER)/pictures
	$(MMCORE) predict $(DEMO_VISPER)/ift $$(ls $(MMCORE_CACHE)/demo/visper/images/50*.jpg | head -3) \
	  --prompt "How many shapes are there?" --out $(DEMO_VISPER)/pictures
	@printf '\nLook at:\n'
	@ls -1 $(DEMO_VISPER)/*/curves.png $(DEMO_VISPER)/pictures/*.png

demo-griffon: export MMCORE_CACHE := $(CURDIR)/.cache
demo-griffon: $(STAMP) ## Griffon: captions, then boxes in text, then both; find shapes; about twelve minutes on two cores
	@init=""; for stage in alignment pretrain instruct; do \
	  if test -f $(DEMO_GRIFFON)/$$stage/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_GRIFFON)/$$stage || exit 1; \
	  else set -x; $(MMCORE) train --plugin griffon --stage $$stage --demo $$init --out $(DEMO_GRIFFON)/$$stage || exit 1; fi; \
	  { set +x; } 2>/dev/null; init="--init $(DEMO_GRIFFON)/$$stage"; done
	@rm -rf $(DEMO_GRIFFON)/pictures
	$(MMCORE) predict $(DEMO_GRIFFON)/instruct $$(ls $(MMCORE_CACHE)/demo/griffon/pictures/50*.jpg | head -4) \
	  --names circle,square,triangle,cross --threshold 0 --out $(DEMO_GRIFFON)/pictures
	@printf '\nLook at:\n'
	@ls -1 $(DEMO_GRIFFON)/*/curves.png $(DEMO_GRIFFON)/pictures/*.png

demo-glamm: export MMCORE_CACHE := $(CURDIR)/.cache
demo-glamm: $(STAMP) ## GLaMM: captions with masks, then masks of expressions; a few minutes each on two cores
	@if test -f $(DEMO_GLAMM)/gcg/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_GLAMM)/gcg; \
	else set -x; $(MMCORE) train --plugin glamm --stage gcg --demo --out $(DEMO_GLAMM)/gcg; fi
	@rm -rf $(DEMO_GLAMM)/pictures $(DEMO_GLAMM)/named
	$(MMCORE) eval $(DEMO_GLAMM)/gcg --on demo_gcg
	$(MMCORE) predict $(DEMO_GLAMM)/gcg $$(ls $(MMCORE_CACHE)/demo/glamm/images/50*.jpg | head -4) \
	  --prompt "Describe the image in detail, and mark each thing you mention with its segmentation mask." \
	  --out $(DEMO_GLAMM)/pictures
	@if test -f $(DEMO_GLAMM)/refseg/config.yaml; then set -x; $(MMCORE) train --resume $(DEMO_GLAMM)/refseg; \
	else set -x; $(MMCORE) train --plugin glamm --stage refseg --demo --init $(DEMO_GLAMM)/gcg \
	  --out $(DEMO_GLAMM)/refseg; fi
	$(MMCORE) predict $(DEMO_GLAMM)/refseg $$(ls $(MMCORE_CACHE)/demo/glamm/images/50*.jpg | head -3) \
	  --names ring --out $(DEMO_GLAMM)/named
	@printf '\nLook at:\n'
	@ls -1 $(DEMO_GLAMM)/*/curves.png $(DEMO_GLAMM)/pictures/*.png $(DEMO_GLAMM)/named/*.png

test: $(STAMP) ## The whole test suite: no GPU, no network, no weights
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not gpu and not slow" $(PYTEST_ARGS)

test-slow: $(STAMP) ## Tests that take minutes, and those that need a GPU where there is one
	@OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m "gpu or slow" $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: lint and format; import-linter: who may know whom
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP) ## Let ruff rewrite what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(STAMP) ## pyright
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

# PUBLISHED=CHECKOUT of FoundationVision/GLEE runs its code beside ours (bench/published.py says what else it needs).
bench: $(STAMP) ## Ratios of time and memory; JSON goes to bench/results
	$(BIN)/python bench/start.py
	$(BIN)/python bench/plans.py --stages 1
	$(BIN)/python bench/glee_step.py
	$(BIN)/python bench/deformable.py
	$(BIN)/python bench/language.py
	$(BIN)/python bench/targets.py
	$(BIN)/python bench/index.py
	$(BIN)/python bench/messages.py
	$(BIN)/python bench/phrases.py
	$(BIN)/python bench/generation.py
	$(BIN)/python bench/griffon.py
	$(BIN)/python bench/glamm_step.py
	$(BIN)/python bench/not_taken.py
	test ! -d ../shared/data/coco_mini || $(BIN)/python bench/loader.py --coco ../shared/data/coco_mini $(BESIDE)
	test -z "$(BESIDE)" || $(BIN)/python bench/glee_step.py --size lite --variants ours --rounds 1 $(BESIDE)

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(VENV)/.docs ## Build the documentation into build/docs; warnings are errors, examples run
	$(BIN)/python -m pytest -q tests/docs
	$(BIN)/python -m mkdocs build --strict --site-dir build/docs

pictures: export MMCORE_CACHE := $(CURDIR)/.cache
pictures: demo demo-visper demo-glamm demo-video ## Draw the pictures of README and site from photographs and demo runs
	$(BIN)/python docs/_site/pictures.py --detector $(DEMO) --talker $(DEMO_VISPER)/ift --masks $(DEMO_GLAMM)/gcg \
	  --tracks $(DEMO_VIDEO)/followed --photographs ../shared/data/coco_mini --out docs/pictures

wheels: $(STAMP) ## Build the wheels of the core and of every plugin into dist
	rm -rf build/lib build/bdist.* $(addsuffix /build,$(PLUGINS))
	for project in . $(PLUGINS); do $(BIN)/python -m build --wheel --outdir dist $$project || exit 1; done

clean: ## Remove build outputs; .venv, runs and data stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis core/*.egg-info plugins/*/*.egg-info
