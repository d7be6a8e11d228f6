# Entry point for people and CI. `make help` lists the targets; scripts and Python do the work.
PYTHON ?= python3
VENV := .venv/bin/python
THUMBWHEEL := .venv/bin/thumbwheel
# An option of a program, unless the variable is empty: the program has the default.
option = $(if $($1),--$2 '$($1)')
MODEL_OPTIONS = $(call option,MODEL,model) $(call option,SERVER,server)
PORT_OPTIONS = $(call option,PORT,port) $(call option,GRPC_PORT,grpc-port)
RECIPE_OPTION = $(call option,RECIPE,recipe)
STATE_OPTION = $(call option,STATE,state)
# The state folder of `make up` is not that of the stack, the cluster or the tour.
OTHER_STATE = $(if $(filter-out .state,$(STATE)),$(STATE_OPTION))
# The packages of the predictor, 120 MB, are not needed by another model server.
SERVING = services $(if $(filter-out predictor,$(SERVER)),,predictor)
# With this variable set, dozens of processes compile their imports: 2 s for torch, 4 s for Ray's
# trainer each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up stack test test-cluster test-long long-tests-current test-gpu faults mutants cluster cluster-down cluster-test deploy check loop demo life bench oracle lock page clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

up: ## run the whole system here and print its URL (MODEL=small|nano|DIR|HUB_ID  SERVER=predictor|vllm|external  PORT=  STATE=  LOOP_EVERY=6h)
	@$(PYTHON) infra/install/environment.py $(SERVING)
	@$(if $(LOOP_EVERY),$(VENV) -m infra.run.embedded check $(RECIPE_OPTION) && $(PYTHON) infra/install/environment.py training)
	@$(THUMBWHEEL) up $(MODEL_OPTIONS) $(RECIPE_OPTION) $(PORT_OPTIONS) $(STATE_OPTION) $(call option,LOOP_EVERY,loop-every)

stack: ## run on real Kafka, Postgres, Valkey and S3, two replicas of each service (BROKERS=1|3  MODEL=  SERVER=predictor|vllm|external  PORT=  STATE=)
	@$(PYTHON) infra/install/environment.py $(SERVING)
	@$(THUMBWHEEL) stack $(MODEL_OPTIONS) $(call option,BROKERS,brokers) $(PORT_OPTIONS) $(OTHER_STATE)

test: ## install the requirements of tests and run them without root and cluster (8 to 12 minutes)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m pytest -m "not long and not cluster" --numprocesses auto --dist loadgroup --no-loadscope-reorder --durations 30

test-cluster: ## run the tests on a real Kubernetes node (root, Debian 12; 13 minutes; CLUSTER=skip skips them)
	@$(PYTHON) infra/install/environment.py dev
	@[ "$$CLUSTER" = skip ] || $(VENV) -m infra.machine.cluster able
	@$(VENV) -m infra.install.requirements
	@[ "$$CLUSTER" = skip ] || { $(VENV) -m infra.machine.cluster install && $(VENV) -m infra.machine.kuberay; }
	@$(VENV) -m pytest -m "cluster and not long" --dist no --durations 30 tests/infra

test-long: ## run the long tests in slices of at most 40 minutes, recorded in docs/long-tests.jsonl (SLICE="cluster mutants"; default all)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m tests.long_tests $(SLICE)

long-tests-current: ## fail unless every slice of test-long passed after the last change to its paths
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m tests.long_tests --current

test-gpu: ## on a machine with an NVIDIA GPU: tests of training in bf16, tokens/s, MFU, vLLM; recorded in docs/gpu.jsonl (PART="stages vllm speed")
	@$(PYTHON) -m tests.gpu.driver
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m tests.gpu $(PART)

# Aliases of former names, for a single release.
faults: ## alias: run the slices of the fault matrix and write docs/faults.md
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m tests.long_tests faults-feedback faults-chat faults-outages; passed=$$?; $(VENV) -m infra.docs.faults && exit $$passed

mutants: ## alias: run the slice with known bugs of training (NAME="…": prefix of the bugs' names)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m $(if $(NAME),tests.mutants '$(NAME)',tests.long_tests mutants)

cluster: ## start a Kubernetes node on this machine: built once (10 minutes), starts in seconds; root, Linux (STATE=)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.machine.cluster install
	@$(VENV) -m infra.machine.cluster up $(OTHER_STATE)

deploy: ## deploy images, chart and stores to that cluster and print the URL (TRAINING=kuberay|job|local [WHOLE=1]  PORT=  GRPC_PORT=  STATE=)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.machine.servers install
	@$(VENV) -m infra.machine.cluster install
	@$(if $(TRAINING),$(PYTHON) infra/install/environment.py training)
	@$(if $(filter kuberay,$(TRAINING)),$(VENV) -m infra.machine.kuberay)
	@$(VENV) -m infra.run.deploy $(PORT_OPTIONS) $(call option,TRAINING,training) $(if $(WHOLE),--whole) $(OTHER_STATE)

cluster-down: ## stop the cluster and remove its files
	@$(VENV) -m infra.machine.cluster down $(OTHER_STATE)

cluster-test: test-cluster ## alias: run test-cluster, then the long slices on a cluster
	@$(MAKE) --no-print-directory test-long SLICE="cluster cluster-releases cluster-training"

check: ## check format, lint, types, code rules, protos, generated files and the page
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.check

# Exit status 4: too little feedback yet. Both commands print a message; for a person this is no
# failure. Scripts call the commands directly.
loop: ## execute a training run on the feedback of the running system (RECIPE=small|nano|auto, default by its model; STATE=; stack: STATE=.state/stack)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.run.embedded check $(RECIPE_OPTION) --state '$(or $(STATE),.state)' && \
	  $(PYTHON) infra/install/environment.py training && \
	  $(THUMBWHEEL) loop $(RECIPE_OPTION) $(STATE_OPTION) || { status=$$?; [ $$status -eq 4 ] || exit $$status; }

demo: ## simulate users, execute a training run, evaluate the result (RECIPE=nano|small, or MODEL=; RECIPE=auto MODEL=DIR; SERVER=predictor|vllm)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.run.embedded check $(RECIPE_OPTION) $(call option,SERVER,server)
	@$(PYTHON) infra/install/environment.py training
	@$(THUMBWHEEL) demo $(MODEL_OPTIONS) $(RECIPE_OPTION)

bench: ## run the benchmarks, a file per claim; those in benchmarks/loop take half an hour each and are run by hand
	@$(PYTHON) infra/install/environment.py dev
	@for file in benchmarks/[a-z]*.py; do echo "==> $$file"; $(VENV) $$file || exit 1; done

oracle: ## alias: run the slice that compares losses with TRL's, in separate environments
	@$(MAKE) --no-print-directory test-long SLICE=oracle

life: ## crawl, clean, pre-train, fine-tune and chat with a small model, offline (30 minutes; MINUTES=  STATE=)
	@$(PYTHON) infra/install/environment.py services predictor training corpus
	@$(THUMBWHEEL) life $(subst --state,--work,$(OTHER_STATE)) $(call option,MINUTES,minutes)

lock: ## resolve dependencies and write the locks
	@PYTHON='$(PYTHON)' infra/install/lock.sh

page: ## build the page from services/web
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.tools page

clean: ## remove .venv and dist; ALL=1: also the state folders of this clone (downloads are preserved)
	@$(PYTHON) -m infra.install.clean $(if $(ALL),--all)
