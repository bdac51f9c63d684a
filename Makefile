# Tenantry's tasks. `make help` lists them.
#
# Everything that is not Go's own is built from the pinned modules in tools/ into bin/, once; `make deps` installs the
# PostgreSQL programs and a C compiler (for the race detector) where a Debian or Fedora machine has none.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN      := bin
MODULES  := proto services examples bench
PACKAGES := $(addprefix ./,$(addsuffix /...,$(MODULES)))

# Vetting is a task of its own, and no debugger needs tests' symbols: without both a first run takes a fifth less to build.
TEST_FLAGS := -race -vet=off -ldflags='-s -w' -parallel 4 -timeout 20m

# Where the rules of protovalidate come from: the module cache, see buf.yaml.
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.2.2

##@ Start here

.PHONY: demo
demo: build $(BIN)/grpcurl ## Sign two companies up, show that neither sees the other, migrate one; leaves a system running to play with
	deploy/demo.sh

.PHONY: demo-stop
demo-stop: ## Stop what `make demo` left running
	deploy/demo.sh stop

.PHONY: test
test: deps $(BIN)/atlas $(BIN)/grpcurl ## Run all tests, with the race detector, on private PostgreSQL servers
	go test $(TEST_FLAGS) $(PACKAGES)

.PHONY: build
build: deps $(BIN)/atlas ## Build bin/tenantry
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/tenantry ./services/cmd/tenantry

##@ Before a commit

.PHONY: check
check: generated tidied format vet lint test ## All that must be green: generated code fresh, format, vet, linters, tests

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc .build/protovalidate ## Make the generated Go from the contract and the example's
	$(BIN)/buf generate
	$(BIN)/buf generate --template examples/buf.gen.yaml

.PHONY: generated
generated: generate ## Fail when generated code is not what the contract gives, or the contract breaks its rules
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf format --diff --exit-code examples/proto
	@changed="$$(git status --porcelain -- proto/gen examples/gen)"; \
	if [ -n "$$changed" ]; then echo "generated code is not fresh: commit what 'make generate' made"; echo "$$changed"; exit 1; fi

.PHONY: tidied
tidied: ## Fail when go.mod or go.sum of a module is not what its code needs
	@for m in $(MODULES); do (cd $$m && go mod tidy -diff); done

.PHONY: breaking
breaking: $(BIN)/buf .build/protovalidate ## Fail when the contract breaks callers of the last commit on main
	rm -rf .build/main && mkdir -p .build/main && git archive main proto examples buf.yaml | tar -x -C .build/main
	mkdir .build/main/.build && cp -r .build/protovalidate .build/main/.build/
	$(BIN)/buf breaking --against .build/main

.PHONY: format
format: $(BIN)/golangci-lint ## Fail when code is not formatted
	@for m in $(MODULES); do (cd $$m && ../$(BIN)/golangci-lint fmt --diff ./...); done

.PHONY: fmt
fmt: $(BIN)/golangci-lint $(BIN)/buf ## Format all code
	@for m in $(MODULES); do (cd $$m && ../$(BIN)/golangci-lint fmt ./...); done
	$(BIN)/buf format -w proto
	$(BIN)/buf format -w examples/proto

.PHONY: vet
vet: ## Run go vet
	go vet $(PACKAGES)

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters of .golangci.yaml
	@for m in $(MODULES); do (cd $$m && ../$(BIN)/golangci-lint run ./...); done

##@ Figures

.PHONY: bench
bench: bench-fleet bench-gateway ## Run all comparisons

.PHONY: bench-fleet
bench-fleet: build ## Compare signups and rollouts with CREATE DATABASE, a pgx loop and the Atlas CLI; about ten minutes
	go run ./bench/fleet

.PHONY: bench-gateway
bench-gateway: build ## Compare the gateway with nginx, pgx and PgBouncer; about ten minutes
	go run ./bench/gateway

.PHONY: bench-deps
bench-deps: deps ## Install what the benchmarks compare with: nginx and PgBouncer
	@deploy/bench-deps.sh

##@ Set-up

.PHONY: deps
deps: ## Install PostgreSQL's programs and a C compiler where there are none
	@deploy/deps.sh

.PHONY: tools
tools: $(addprefix $(BIN)/,atlas buf grpcurl golangci-lint protoc-gen-go protoc-gen-go-grpc) ## Build every pinned tool

.PHONY: clean
clean: ## Delete what was built
	rm -rf $(BIN) .build

# $(1) is the module under tools/, $(2) the package. A tool is built again when its pins change. tools/ is no part of
# the workspace: its modules want other versions of what ours want.
define tool
$(BIN)/$(notdir $(2)): tools/$(1)/go.mod tools/$(1)/go.sum
	cd tools/$(1) && GOWORK=off go build -trimpath -o $$(CURDIR)/$$@ $(2)
endef
$(eval $(call tool,atlas,ariga.io/atlas/cmd/atlas))
$(eval $(call tool,buf,github.com/bufbuild/buf/cmd/buf))
$(eval $(call tool,grpcurl,github.com/fullstorydev/grpcurl/cmd/grpcurl))
$(eval $(call tool,golangci,github.com/golangci/golangci-lint/v2/cmd/golangci-lint))
$(eval $(call tool,protoc,google.golang.org/protobuf/cmd/protoc-gen-go))
$(eval $(call tool,protoc,google.golang.org/grpc/cmd/protoc-gen-go-grpc))

.build/protovalidate: Makefile
	@dir="$$(GOWORK=off go mod download -json $(PROTOVALIDATE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')"; \
	rm -rf $@ && mkdir -p $@ && cp -R "$$dir/proto/protovalidate/buf" $@/ && chmod -R u+w $@ && touch $@

.PHONY: help
help: ## Say what can be made
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
