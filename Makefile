# Everything happens in .venv; a stamp file marks each install, so that a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check install --use-pep517 --editable

# Small networks on few cores lose most of their time to spinning OpenMP threads.
export OMP_WAIT_POLICY = passive

.PHONY: demo test docs lab edit sync run export readme dist

# The notebook that `edit` and `run` are about, such as NB=1_attack/10_inversion or NB=tutorials/score.
NB ?=
notebook = $(if $(wildcard nbs/$(NB).ipynb),nbs/$(NB).ipynb,$(error name a notebook of nbs, such as NB=1_attack/10_inversion))

demo: .venv/run.stamp          ## the whole study in small; prints where its report is
	@$(BIN)/semsim run

test: .venv/dev.stamp          ## every test: each notebook, the package, the repository
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal

docs: .venv/dev.stamp          ## the site, in _docs
	@$(BIN)/python tools/docs.py

lab: .venv/dev.stamp           ## the notebooks, in JupyterLab, opened on the first page
	@$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/index.ipynb

edit: .venv/dev.stamp          ## a notebook as a text file, in scratch
	@mkdir -p $(dir scratch/$(NB))
	@$(BIN)/jupytext --quiet --to py:percent $(notebook) --output scratch/$(NB).py
	@echo "edit scratch/$(NB).py, then: make sync"

sync: .venv/dev.stamp          ## the text files of scratch back into their notebooks; ids and outputs are kept
	@mkdir -p scratch && cd scratch && for text in $$(find . -name '*.py'); do \
		../$(BIN)/jupytext --quiet --update --to ipynb $$text --output ../nbs/$${text%.py}.ipynb --update-metadata '{"jupytext": null}' && rm $$text || exit 1; \
	done
	@$(MAKE) --no-print-directory export

run: export                    ## a notebook, whole and in place, as it will be read
	@cd $(dir $(notebook)) && $(CURDIR)/$(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace $(notdir $(notebook))
	@$(MAKE) --no-print-directory export

export: .venv/dev.stamp        ## clean the notebooks and write the modules from them
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export

readme: .venv/dev.stamp        ## README.md from nbs/index.ipynb
	@$(BIN)/python tools/readme.py

# Without ensurepip (Debian's python3-venv) pip is what is missing, and the next call tries again.
$(BIN)/pip:
	@echo "making a virtual environment in .venv"
	@$(PYTHON) -m venv .venv

.venv/run.stamp: setup.py settings.ini | $(BIN)/pip
	@echo "installing semsim and its requirements (5 GB, about 2-4 minutes)"
	@$(PIP) '.[annotate,study]'
	@touch $@

# The development install holds the other one, so it marks both.
.venv/dev.stamp: setup.py settings.ini | $(BIN)/pip
	@echo "installing semsim, its requirements and the development tools (5 GB, about 2-4 minutes)"
	@$(PIP) '.[dev]'
	@touch .venv/run.stamp $@

dist: .venv/dev.stamp          ## the sdist and the wheel, in dist
	@$(BIN)/python -m build
