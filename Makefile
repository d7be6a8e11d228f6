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
VENV := .venv/bin/python
# As for the stack: the folder of `make up` is not the cluster's.
CLUSTER_STATE = $(if $(filter .state,$(STATE)),,--state $(STATE))
# Where it is set, every process compiles its imports anew: 2 s for torch, 4 s for Ray's trainer, in each of dozens.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up stack test faults mutants cluster cluster-down cluster-test deploy check loop demo bench oracle lock page clean

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

# What cannot run says so before minutes are spent, and a cluster's tests have the machine for themselves.
test: ## install what tests need, and run them all but the long faults (CLUSTER=skip: without root, no Kubernetes)
	@$(PYTHON) infra/install/environment.py dev
	@[ "$$CLUSTER" = skip ] || $(VENV) -m infra.cluster able
	@$(VENV) -m infra.install.tools browser
	@$(VENV) -m infra.servers install
	@$(VENV) -m infra.cluster clients
	@$(VENV) -m infra.definitions
	@[ "$$CLUSTER" = skip ] || { $(VENV) -m infra.cluster install && $(VENV) -m infra.kuberay; }
	@$(VENV) -m pytest -m "cluster and not faults" --dist no tests/infra
	@$(VENV) -m pytest -m "not faults and not cluster" --numprocesses auto --dist loadgroup

faults: ## all fault scenarios in all forms, then docs/faults.md (an hour)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.servers install
	@THUMBWHEEL_FAULTS=docs/faults.jsonl $(VENV) -m pytest --dist no tests/faults; passed=$$?; \
	  $(VENV) -m infra.docs.faults && exit $$passed
	@$(VENV) -m pytest -m "faults and not cluster" --dist no --ignore tests/faults tests

mutants: ## plant each known bug of training in a copy, and say which test catches it (a few minutes)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m tests.mutants

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

cluster-test: ## all tests on a real cluster, the long ones too (CLUSTER=skip where none can run)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.servers install
	@$(VENV) -m infra.cluster clients
	@$(VENV) -m infra.definitions
	@[ "$$CLUSTER" = skip ] || { $(VENV) -m infra.cluster install && $(VENV) -m infra.kuberay; }
	@$(VENV) -m pytest -m cluster --dist no tests/infra

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

oracle: ## our losses against TRL's, in environments of its own (development only)
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m tests.oracle

lock: ## resolve dependencies again and write the locks
	@infra/install/lock.sh

page: ## build the page from services/web
	@$(PYTHON) infra/install/environment.py dev
	@$(VENV) -m infra.install.tools page

clean: ## remove .venv and dist; ALL=1: this clone's state folders too (downloads stay: other clones use them; it says where)
	@$(PYTHON) -m infra.install.clean $(if $(ALL),--all)
