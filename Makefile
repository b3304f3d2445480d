# Each target is a script in scripts/, which says at its top what it does and what it reads.

.DEFAULT_GOAL := help
.PHONY: help run env test model queries load routing-bench bench pure-bench durability-bench outage soak torture drills failover pooler cells fuzz page screenshots supply-chain reproducible

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

run: ## build and run everything on this machine, API on port 9999; RELEASE=1: as it is released, some faster, minutes more to build
	@scripts/run.sh

env: ## random passwords and tokens for docker-compose.yml, into .env; what is there stays
	@scripts/env.sh

test: ## format, lints, query data, all tests, on a PostgreSQL of their own; PG=18 chooses its version
	@scripts/test.sh

model: ## every interleaving of the protocol in larger configurations than `make test` explores; how many states it saw
	@cargo run --quiet --release --locked --package model --example explore

queries: ## write .sqlx anew, after a change of a query or a migration
	@scripts/with-postgres.sh scripts/queries.sh write

load: ## the contest's minute against port 9999, then an audit of what came of every payment
	@scripts/load.sh

routing-bench: ## what the router earns in simulated scenarios, against an oracle and simpler policies; COMPARE=hold: by HOLD_MS
	@cargo run --quiet --release --locked --package router --example routing_bench -- $(COMPARE)

bench: ## the service in the contest's box, measured; LINES="public cpu ..." SECONDS=... RATE=... TURNS=... OVERLAY=... choose; QUICK=1: what `make run` starts, in five minutes
	@BENCH_QUICK='$(QUICK)' BENCH_LINES='$(LINES)' BENCH_SECONDS='$(SECONDS)' BENCH_RATE='$(RATE)' BENCH_ROWS='$(ROWS)' BENCH_TURNS='$(TURNS)' $(if $(filter undefined,$(origin OVERLAY)),,BENCH_OVERLAY='$(OVERLAY)') scripts/bench.sh

soak: ## the load of a day in MINUTES=30, and what has grown at its end that must not; RATE=... SEED=...
	@scripts/soak.sh $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RATE),--rate $(RATE)) $(if $(SEED),--seed $(SEED))

pure-bench: ## what a decision, the reading of a body and the cutting of a range cost (criterion)
	@cargo bench --quiet --locked --bench pure

durability-bench: ## what a logged queue costs against an unlogged one, as a ratio
	@scripts/build.sh release --example durability_bench
	@scripts/with-postgres.sh $${CARGO_TARGET_DIR:-target}/release/examples/durability_bench

outage: ## what an instance does in a minute without its database, which takes too long for `make test`
	@scripts/with-postgres.sh cargo nextest run --locked --test gateway --run-ignored only neighbours

torture: ## kills, stops and faults for MINUTES=3 in MODE=both from SEED=..., then a verdict on every payment
	@scripts/torture.sh

drills: ## outages one by one, each with a verdict on every payment, before a release; DRILLS="slow-clients full-disk" SEED=...
	@scripts/drills.sh $(DRILLS)

failover: ## three PostgreSQL under Patroni lose their leader, etcd, HAProxy, a standby; DRILLS="killed-leader" QUEUE=logged SEED=...
	@scripts/failover.sh $(if $(QUEUE),--queue $(QUEUE)) $(DRILLS)

cells: ## four cells in two PostgreSQL clusters, and in Citus where it is installed: one killed and back, one moved, every payment audited; RATE=... SECONDS=...
	@scripts/cells.sh $(if $(RATE),--rate $(RATE)) $(if $(SECONDS),--seconds $(SECONDS))

pooler: ## PgBouncer, instances and the server killed in transaction mode, and a verdict on every payment; DRILLS="killed-pooler" SEED=...
	@scripts/pooler.sh $(DRILLS)

fuzz: ## what reads requests and replies, fuzzed for MINUTES=4; TARGETS="payment range" chooses
	@scripts/fuzz.sh

page: ## the live page in a real Chromium: what it shows, and axe-core in each of its states
	@scripts/page.sh

screenshots: ## pictures of the live page in all its states, for docs/screenshots
	@scripts/screenshots.sh

supply-chain: ## licences, sources, duplicates, unused and vulnerable dependencies; the bill of materials
	@scripts/supply-chain.sh

reproducible: ## two release builds in two folders, which have to be the same byte for byte
	@scripts/reproducible.sh
