# The commands of the project. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(POD_IDENTITY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pod-identity-sidecar)
TOOLS := $(CACHE)/cargo-tools
E2E   := target/debug/e2e
RELEASE := target/x86_64-unknown-linux-musl/release
MUSL_BUILD := CC_x86_64_unknown_linux_musl=musl-gcc cargo build --locked --release --target x86_64-unknown-linux-musl

MACHETE := 0.9.1
DENY    := 0.20.2

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- see it run -------------------------------------------------------------------------------

.PHONY: demo
demo: e2e ## Show the main job on a local cluster with a fake Azure (installs what it needs)
	$(E2E) demo

.PHONY: demo-down
demo-down: e2e ## Stop the local cluster and remove what it left
	$(E2E) down

.PHONY: cluster-up
cluster-up: e2e ## Start the local cluster without the demo
	$(E2E) up

.PHONY: cluster-status
cluster-status: e2e ## Say what of the local cluster runs, and where its logs are
	$(E2E) status

.PHONY: images
images: e2e ## Build the images with buildah and say where their archives are
	$(E2E) images

.PHONY: e2e
e2e: toolchain
	@echo "Building the local cluster's command and the fake Azure (the first time takes a few minutes)"
	cargo build --locked -p e2e -p fake-azure

.PHONY: tools
tools: e2e
	@if [ "$$(id -u)" = 0 ]; then $(E2E) tools; \
	else echo "Not root: tests that need network namespaces of their own are left out."; fi

.PHONY: toolchain
toolchain:
	@cargo --version >/dev/null || { echo "Rust is missing: install it with rustup, then run this again"; exit 1; }
	@rustup target list --installed | grep -q x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl

# --- check it ---------------------------------------------------------------------------------

.PHONY: test
test: format lint dependencies unit crash-test cluster-test ## Check everything: format, lints, dependencies, tests, chart, cluster

.PHONY: format
format: toolchain ## Check the formatting
	cargo fmt --all --check

.PHONY: lint
lint: toolchain ## Check with clippy; a warning is an error
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p e2e --test cluster --test migrate --test partition --test sdks --test uninstall -- -D warnings

.PHONY: dependencies
dependencies: $(TOOLS)/.machete-$(MACHETE) $(TOOLS)/.deny-$(DENY) ## Check for unused, duplicate or badly licensed dependencies
	$(TOOLS)/bin/cargo-machete
	$(TOOLS)/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

.PHONY: unit
unit: tools ## Run the unit, golden, component and chart tests
	cargo test --locked --workspace --quiet

.PHONY: crash-test
crash-test: tools ## Kill, pause and replace the controller at its steps, and sign in; brings an API server of its own
	cargo test --locked -p e2e --test crash -- --test-threads=4

.PHONY: cluster-test
cluster-test: e2e ## Run the tests on the local cluster (needs root)
	@if [ "$$(id -u)" = 0 ]; then \
	  cargo test --locked -p e2e --test cluster -- --test-threads=4 && \
	  cargo test --locked -p e2e --test partition && \
	  cargo test --locked -p e2e --test migrate && \
	  cargo test --locked -p e2e --test sdks -- --test-threads=4 && \
	  cargo test --locked -p e2e --test uninstall; \
	else \
	  echo "Not root: the cluster tests are left out. Run 'sudo make cluster-test' for them."; \
	fi

.PHONY: bench
bench: release tools ## Measure the release programs: tokens, and the controller at scale (as root, alone on the machine; six minutes)
	$(RELEASE)/bench tokens --images $(CACHE)/images
	$(RELEASE)/bench scale --control-plane $(CACHE)/control-plane

# The programs as the images have them, and apart from them what measures: in one call cargo would
# build the libraries that they share with the features of all.
.PHONY: release
release: toolchain
	@command -v musl-gcc >/dev/null || { echo "musl-gcc is missing: install the package musl-tools"; exit 1; }
	$(MUSL_BUILD) -p webhook -p controller -p nmi-host --bins
	$(MUSL_BUILD) -p nmi-sidecar -p init-redirect --bins
	$(MUSL_BUILD) -p bench -p fake-azure

.PHONY: golden
golden: toolchain ## Write the golden files anew; read the diff before you commit it
	UPDATE_GOLDEN=1 cargo test --locked --workspace --quiet

$(TOOLS)/.machete-$(MACHETE):
	@echo "Installing cargo-machete $(MACHETE) (once)"
	cargo install --quiet --debug --locked --root $(TOOLS) cargo-machete@$(MACHETE)
	@touch $@

$(TOOLS)/.deny-$(DENY):
	@echo "Installing cargo-deny $(DENY) (once, a few minutes)"
	cargo install --quiet --debug --locked --root $(TOOLS) cargo-deny@$(DENY)
	@touch $@
