# OpenManage. `make help` lists the targets.

GO      ?= go
VERSION ?= dev
# Where Docker looks for the current user's CLI plugins.
PLUGINS ?= $(or $(DOCKER_CONFIG),$(HOME)/.docker)/cli-plugins

LDFLAGS = -s -w -X github.com/openmanage/openmanage/internal/version.Version=$(VERSION)
LINT    = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.DEFAULT_GOAL := help
.PHONY: help build install image test test-catalog test-unit bench chaos demo demo-clean lint fmt clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## build both binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/openmanage ./cmd/docker-openmanage

install: build ## install the CLI plugin for the current user: docker openmanage
	mkdir -p $(PLUGINS)
	install -m 755 bin/docker-openmanage $(PLUGINS)/docker-openmanage

image: ## build the image and the managed plugin into the testenv's registry
	$(GO) run ./testenv images product
	$(GO) run ./testenv images plugin

test: ## run every test, the end-to-end tests on a real Swarm included
	$(GO) run ./testenv setup
	$(GO) test -count=1 -p 2 -timeout 75m ./...

test-catalog: ## try every application of the catalog that can be run here
	$(GO) run ./testenv setup
	OPENMANAGE_CATALOG=1 $(GO) test -count=1 -timeout 2h -v ./testenv/e2e -run '^(TestCatalogApplications|TestZabbix)$$'

test-unit: ## run the tests that need no Swarm
	$(GO) test -short ./...

bench: ## measure, and print the tables of docs/benchmarks.md
	$(GO) run ./testenv/bench

chaos: ## the long forms of the end-to-end tests
	OPENMANAGE_LONG=1 $(GO) test -count=1 -p 1 -timeout 12h -v ./testenv/e2e

demo: ## show the main job on a 3-node Swarm on this machine
	@$(GO) run ./testenv/demo

demo-clean: ## remove everything that demo and tests have set up
	@$(GO) run ./testenv down --all

lint: ## check style, mistakes and the layers
	$(LINT) run ./...

fmt: ## format
	gofmt -w $$(git ls-files '*.go')

clean: ## remove what was built
	rm -rf bin
