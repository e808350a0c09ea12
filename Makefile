# The study's commands; `make` or `make help` lists them. Everything installs itself into .venv on first use.

PROFILE  ?= quick
ONLY     ?=
DATASETS ?=
SEEDS    ?= 1
EPOCHS   ?=
JOBS     ?=
CLUSTER  ?=
YES      ?=

FOLDERS := QLSTM_MIRROR QLSTM_DATA QLSTM_REPORTS
KNOWN   := PROFILE ONLY DATASETS SEEDS EPOCHS JOBS CLUSTER YES PYTHON TORCH $(FOLDERS)
$(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$(if $(filter $v,$(KNOWN)),,\
  $(error unknown variable in "$v=$(value $v)"; possible: $(KNOWN)))))
PYTHON  ?= python3
# what is given goes on as it was typed, with blanks, quotes, #, $$
quoted = '$(subst ','\'',$(value $1))'
# notebooks run in folders of their own, so folders are made absolute (not by abspath, which splits at blanks)
absolute = $(if $(findstring ://,$1),$1,$(subst :::,$(CURDIR)/,$(subst :::/,/,$(subst :::~/,$(value HOME)/,:::$1))))
$(foreach v,$(FOLDERS),$(if $(value $v),$(eval override export $v := $$(call absolute,$$(value $v)))))

# what runs is the code of this folder, and what else it runs on is that of its environment
$(if $(findstring :,$(CURDIR)),$(error the path of this folder, $(CURDIR), has a colon, which Python's path cannot: rename it))
export PYTHONPATH := $(CURDIR)
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT PYTHONSAFEPATH PYTHONUSERBASE
ifeq ($(CONDA_DEFAULT_ENV),qlstm)
PY := "$${CONDA_PREFIX:+$$CONDA_PREFIX/bin/}python"
else
PY := .venv/bin/python
endif

SELECTION = --profile=$(call quoted,PROFILE) --only=$(call quoted,ONLY) --datasets=$(call quoted,DATASETS) \
            --seeds=$(call quoted,SEEDS) --epochs=$(call quoted,EPOCHS) --jobs=$(call quoted,JOBS) \
            --cluster=$(call quoted,CLUSTER)

.PHONY: help setup lab learn data plan reproduce status report site course test test-slurm soak lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce    run every notebook and make all tables and figures -> reports/<profile>/index.html"
	@echo "make test         the tests, the lessons against their stored outputs, the report notebooks on smoke records"
	@echo "make test-slurm   the same grid on a Slurm of this machine, with everything killed once (root; 5 minutes)"
	@echo "make soak         a table, killed 20 times at random moments, against an unbroken run of it (10 minutes)"
	@echo "make learn        the lessons to work in, without solutions: JupyterLab on reports/course/work"
	@echo "make lab          open JupyterLab on all notebooks"
	@echo "make status       what is done, running, failed"
	@echo "make plan         what reproduce would train: runs, data, hours by machine"
	@echo "make report       tables, figures and page again from the records that exist"
	@echo "make site         lessons, results and API reference as pages to read offline -> reports/site/index.html"
	@echo "make data         fetch and check the data that the same settings of reproduce need"
	@echo "make course       for a class: hand-outs (exercises.zip), solutions, slides -> reports/course"
	@echo "make setup        install into .venv (done by the other commands too)    TORCH=cpu|cu126|cu130   a build of PyTorch"
	@echo "make lint         check style and types        make bench  time layer, step and use beside nn.LSTM        make clean  remove what was made"
	@echo
	@echo "Settings of reproduce, all optional, in any combination:"
	@echo "  PROFILE=smoke|quick|paper   minutes | the finding on two cores (default) | the paper's settings"
	@echo "  ONLY=table_2,figure_01      only these        DATASETS=war_and_peace,my.txt   only these texts"
	@echo "  SEEDS=3  EPOCHS=10          seeds 0, 1, 2; epochs instead of the profile's        JOBS=2  side by side"
	@echo "  CLUSTER=slurm               each run is a job of the cluster (workflow/profiles/slurm)"

# nothing happens where the environment is ready
setup:
	@PYTHON=$(call quoted,PYTHON) TORCH=$(if $(filter command,$(firstword $(origin TORCH))),$(call quoted,TORCH)) sh workflow/install.sh

lab: setup
	@$(PY) -m jupyterlab notebooks

learn: setup
	@$(PY) -m qlstm course work
	@$(PY) -m jupyterlab "$${QLSTM_REPORTS:-reports}/course/work/START.ipynb"

data plan reproduce report: setup
	@$(PY) -m qlstm $@ $(SELECTION)

status: setup
	@$(PY) -m qlstm status $(call quoted,PROFILE)

# all profiles with results, or the one that was asked for
site: setup
	@$(PY) -m qlstm site $(if $(filter file,$(origin PROFILE)),,$(call quoted,PROFILE))

course: setup
	@$(PY) -m qlstm course write

test: setup
	@$(PY) -m pytest -p no:nbval
	@$(PY) -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg -p no:warnings notebooks/learn/[0-9]*.ipynb
	@$(PY) tests/smoke_records.py .pytest_cache/reports
	@QLSTM_REPORTS="$$PWD/.pytest_cache/reports" $(PY) -m pytest --nbval-lax --nbval-current-env -p no:warnings notebooks/report

test-slurm: setup
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[slurm]'
	@$(PY) -m pytest -n 0 tests/test_workflow.py -k cluster
	@$(PY) tests/slurm.py

soak: setup
	@$(PY) tests/soak.py

lint: setup
	@$(PY) -m ruff check . && $(PY) -m ty check -q && $(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()"

bench: setup
	@$(PY) -m qlstm bench
	@$(PY) -m qlstm notebook notebooks/report/bench.ipynb "$${QLSTM_REPORTS:-reports}/bench/bench.ipynb" save=true

# of this checkout, whatever QLSTM_REPORTS says; asks before it removes runs outside of the grids
clean: $(if $(wildcard reports/smoke reports/quick),setup)
	@test -z "$(wildcard reports/smoke reports/quick)" || QLSTM_REPORTS= $(PY) -m qlstm clean $(if $(YES),--yes)
	@echo "removing reports of smoke and quick, the site, caches; .venv, data/raw, other reports stay"
	@rm -rf reports/site .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
