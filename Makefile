# The one door for people and CI. Every target says what it does; the work is in scripts and Python.
PYTHON ?= python3
STATE ?= .state
MODEL ?= small
RECIPE ?= small
PORT ?= 8080
GRPC_PORT ?= 50051
LOOP_EVERY ?=
TRAINING ?=
WHOLE ?=
BROKERS ?= 1
SLICE ?=
NAME ?=
VENV := .venv/bin/python
# As for the stack: the folder of `make up` is not the cluster's.
CLUSTER_STATE = $(if $(filter .state,$(STATE)),,--state $(STATE))
# Where it is set, every process compiles its imports anew: 2 s for torch, 4 s for Ray's trainer, in each of dozens.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up stack test test-cluster test-long faults mutants cluster cluster-down cluster-test deploy check loop demo bench oracle lock page clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

up: ## run everything here and print one URL (MODEL=small|nano|DIR|HUB_ID  PORT=  STATE=  LOOP_EVERY=6h)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(if $(LOOP_EVERY),$(VENV) -m infra.embedded check --recipe $(RECIPE) && $(PYTHON) infra/install/environment.py training)
	@$(VENV) -m infra.embedded up --model $(MODEL) --recipe $(RECIPE) --port $(PORT) --grpc-port $(GRPC_PORT) \
	  --state $(STATE) $(if $(LOOP_EVERY),--loop-every $(LOOP_EVERY))

stack: ## the same on real Kafka, Postgres, Valkey and S3, two replicas of each service (BROKERS=1|3  MODEL=  PORT=  STATE=)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.stack up --model $(MODEL) --brokers $(BROKERS) --port $(PORT) --grpc-port $(GRPC_PORT) \
	  --state $(if $(filter .state,$(STATE)),.state/stack,$(STATE))

test: ## install what tests need and run them: no root, no cluster (8 to 12 minutes)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m pytest -m "not long and not cluster" --numprocesses auto --dist loadgroup --no-loadscope-reorder --durations 30

test-cluster: ## the tests on a real Kubernetes of one node (root, Debian 12; 13 minutes; CLUSTER=skip: none)
	@$(PYTHON) infra/install/environment.py dev
	@[ "$$CLUSTER" = skip ] || $(VENV) -m infra.cluster able
	@$(VENV) -m infra.install.requirements
	@[ "$$CLUSTER" = skip ] || { $(VENV) -m infra.cluster install && $(VENV) -m infra.kuberay; }
	@$(VENV) -m pytest -m "cluster and not long" --dist no --durations 30 tests/infra

test-long: ## the tests that need minutes, in slices of at most 40 (SLICE="cluster mutants"; without it all), recorded in docs/long-tests.jsonl
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.requirements
	@$(VENV) -m tests.long_tests $(SLICE)

# The former names stay for one release.
faults: ## alias: the slices of the fault matrix, then docs/faults.md
	@$(MAKE) --no-print-directory test-long SLICE="faults-feedback faults-chat"; passed=$$?; $(VENV) -m infra.docs.faults && exit $$passed

mutants: ## alias: the slice that plants each known bug of training (NAME="…": those whose names begin so)
	@$(PYTHON) infra/install/environment.py dev
	@$(if $(NAME),$(VENV) -m tests.mutants "$(NAME)",$(MAKE) --no-print-directory test-long SLICE=mutants)

cluster: ## a real Kubernetes of one node on this machine: built once (10 minutes), started in seconds; root and Linux (STATE=)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.cluster install
	@$(VENV) -m infra.cluster up $(CLUSTER_STATE)

deploy: ## Thumbwheel on that cluster: images, chart, stores in it; prints one URL (TRAINING=local|kuberay [WHOLE=1]  PORT=  GRPC_PORT=  STATE=)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.servers install
	@$(VENV) -m infra.cluster install
	@$(if $(TRAINING),$(PYTHON) infra/install/environment.py training)
	@$(if $(filter kuberay,$(TRAINING)),$(VENV) -m infra.kuberay)
	@$(VENV) -m infra.deploy --port $(PORT) --grpc-port $(GRPC_PORT) $(if $(TRAINING),--training $(TRAINING)) $(if $(WHOLE),--whole) $(CLUSTER_STATE)

cluster-down: ## end it; nothing of it stays
	@$(VENV) -m infra.cluster down $(CLUSTER_STATE)

cluster-test: test-cluster ## alias: test-cluster, then the long slices on a cluster
	@$(MAKE) --no-print-directory test-long SLICE="cluster cluster-training"

check: ## formatting, lint, types, house rules, protos, generated code, the page
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.check

# 4: too little feedback yet. Both commands say so, and for a person it is no failure; scripts ask them and not make.
loop: ## one turn of training on the running system's thumbs (RECIPE=small|nano  STATE=; of the stack: STATE=.state/stack)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.embedded check --recipe $(RECIPE) --state $(STATE) && \
	  $(PYTHON) infra/install/environment.py training && \
	  $(VENV) -m infra.embedded loop --recipe $(RECIPE) --state $(STATE) || { status=$$?; [ $$status -eq 4 ] || exit $$status; }

demo: ## simulated people chat and rate, then the loop runs, and the result is judged (RECIPE=nano|small)
	@$(PYTHON) infra/install/environment.py services predictor
	@$(VENV) -m infra.embedded check --recipe $(RECIPE)
	@$(PYTHON) infra/install/environment.py training
	@$(VENV) -m infra.simulated_users demo --recipe $(RECIPE)

bench: ## the measured claims, one file each
	@$(PYTHON) infra/install/environment.py dev
	@for file in benchmarks/[a-z]*.py; do echo "==> $$file"; $(VENV) $$file || exit 1; done

oracle: ## alias: the slice that compares losses with TRL's, in environments of its own
	@$(MAKE) --no-print-directory test-long SLICE=oracle

lock: ## resolve dependencies again and write the locks
	@infra/install/lock.sh

page: ## build the page from services/web
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.tools page

clean: ## remove .venv and dist; ALL=1: this clone's state folders too (downloads stay: other clones use them; it says where)
	@$(PYTHON) -m infra.install.clean $(if $(ALL),--all)
