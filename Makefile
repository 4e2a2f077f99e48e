# What a user runs. `make demo` and `make test` set up what they need, given rustup.

CARGO ?= cargo
ALIGNER := target/release/aligner
DEMO := runs/demo

.PHONY: all setup fetch build demo methods reproduce smoke lint test ecosystem bench bench-plugins bench-server simulate peers soak fuzz clean build-cuda check-cuda test-cuda bench-cuda

all: build

# The pinned compiler with its WebAssembly target, from rust-toolchain.toml.
setup:
	@rustc --version >/dev/null 2>&1 || rustup toolchain install
	@rustup target list --installed | grep -qx wasm32-unknown-unknown || rustup target add wasm32-unknown-unknown

# Everything that comes from the network, so that the rest works without one.
fetch: setup
	$(CARGO) fetch --locked
	$(CARGO) fetch --locked --manifest-path plugins/Cargo.toml
	$(CARGO) fetch --locked --manifest-path tests/guests/Cargo.toml

build: setup
	$(CARGO) build --release --locked -p aligner

# SOFT+ on SmolLM2-135M-Instruct: three rounds on the CPU. A second call finds the work done.
demo: build
	$(ALIGNER) --plugins soft-plus.toml --out $(DEMO) --resume

# Every method's plugin set on SmolLM2-135M-Instruct, one after the other; a second call finds the work
# done. What they came to stands in docs/methods.
METHODS := self-instruct dromedary soft soft-plus i-sheep rlcd sso sso-v2 expo
methods: build
	for method in $(METHODS); do \
	  $(ALIGNER) --plugins $$method.toml --out runs/methods/$$method --resume || [ $$? = 6 ] || exit 1; \
	done

# What the papers compare, with tiny budgets, and the page of it, docs/methods/comparison.md: at most an hour
# on two cores for each seed. A second call goes on with what is not finished; ONLY=soft,sso does some of it.
SEEDS ?= 1
ONLY ?= all
reproduce: setup
	$(CARGO) bench --locked -p aligner --bench reproduce -- --seeds $(SEEDS) --only $(ONLY)

# The demo's first round on a few prompts, for CI.
smoke: build
	rm -rf runs/smoke
	$(ALIGNER) --plugins soft-plus.toml --out runs/smoke --rounds 1 --set data.limit=12

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path plugins/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path tests/guests/Cargo.toml
	rustfmt --check --edition 2024 sdk/templates/rust/*/src/lib.rs
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --manifest-path plugins/Cargo.toml --target-dir target/plugins --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --manifest-path plugins/Cargo.toml --target-dir target/plugins --no-deps -p aligner-sdk

# Without a network, once `make fetch` has run.
test: setup
	$(CARGO) test --release --locked --workspace
	$(CARGO) test --release --locked --manifest-path plugins/Cargo.toml --target-dir target/plugins --workspace

# What needs Python, Node or a browser: the demo's adapter in PEFT, and merged in transformers; what authors of plugins
# do, in each language; plugins in a real registry; the pages of `aligner evaluate` and of runs in Chromium; a run on a
# server of llama-cpp-python; stages on a Ray cluster.
ecosystem: build
	tests/ecosystem/run
	tests/trl/run
	tests/sdk/run
	tests/sharing/run
	tests/evaluate/run
	tests/report/run
	tests/server/run
	tests/cluster/run

# The engine against its peers, as far as `make peers` or $ALIGNER_PEERS_PYTHON has them. Some rows:
# `make bench ROWS=decode,lora REPEAT=5`, a few minutes: `make bench ROWS=quick`.
ROWS ?= all
REPEAT ?= 5
bench: setup
	$(CARGO) bench --locked -p aligner --bench engine -- --rows $(ROWS) --repeat $(REPEAT)

# What the sandbox costs, against native code and against Extism (built here, some minutes), how long the verbs
# for authors take, and a round's share of plugins.
EXTISM := target/bench-extism
bench-plugins: setup
	cd tests/bench-plugins/extism && $(CARGO) build --release --locked -p extism-host --target-dir ../../../$(EXTISM)
	cd tests/bench-plugins/extism && $(CARGO) build --release --locked -p extism-guest --target wasm32-unknown-unknown --target-dir ../../../$(EXTISM)
	$(CARGO) bench --locked -p aligner --bench plugins -- --extism $(CURDIR)/$(EXTISM) --round

# What a run on a server takes beside calling the server directly, with the same requests under way.
bench-server: setup
	$(CARGO) bench --locked -p aligner --bench server

# A round of a large model on many GPUs, as docs/simulation.md says; `make simulate SET="gpus=128 in_flight=8192"` with
# other assumptions. It stands on nothing, so nothing else is built. What the host costs was measured by
# tests/simulate/measure.
SET ?=
simulate: setup
	@mkdir -p target
	@rustc --edition 2024 -O tests/simulate/main.rs -o target/simulate
	@target/simulate $(SET)

# The programs that `make bench` compares with; llama.cpp is compiled for this machine.
PEERS := tests/peers/.venv
peers:
	python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -r tests/peers/requirements.txt

# With NVIDIA GPUs as devices. The compiler is fetched where NVCC names none; the binary runs on
# machines without a GPU too. On one with a GPU, cuBLAS belongs on LD_LIBRARY_PATH.
CUDA = eval "$$([ -n "$$NVCC" ] || tests/bench-cuda/toolkit)" &&
build-cuda: setup
	$(CUDA) $(CARGO) build --release --locked -p aligner --features cuda

# No GPU is needed: `tests/cuda` has a driver of its own, which runs the kernels on the processor. So this is about the
# numbers of the sources, not of a card.
check-cuda: setup
	$(CUDA) $(CARGO) clippy --release --locked -p aligner --features cuda --all-targets -- -D warnings
	tests/bench-cuda/test
	$(CUDA) $(CARGO) build --release --locked -p aligner --features cuda
	tests/cuda/run
	$(CUDA) tests/cuda/numbers

# Against the processor, on a machine with a GPU.
test-cuda: setup
	$(CUDA) ALIGNER_TEST_CUDA=1 $(CARGO) test --release --locked -p aligner --features cuda --lib -- cuda

# Beside PyTorch and transformers, which $CUDA_PYTHON has: a table of ratios, of shares of what the card can do, and of
# goals. Some rows: `make bench-cuda CUDA_ROWS="1.5b=lora,decode-1"`.
CUDA_ROWS ?= 135m=lora,dpo,decode-1,decode-256 1.5b=lora,full,dpo,decode-1,decode-256,prefix 7b=lora,dpo,decode-1,decode-256
CUDA_PYTHON ?= python3
bench-cuda: setup
	$(CUDA) $(CARGO) bench --locked -p aligner --features cuda --bench cuda --no-run
	tests/bench-cuda/table --ours "$$(ls -t target/release/deps/cuda-* | grep -v '\.d$$' | head -1)" \
	  --peer "$(CUDA_PYTHON) tests/bench-cuda/peer.py" $(CUDA_ROWS)

# Long kills, a journal cut at every byte, many mutations of bad input.
soak: build
	ALIGNER_SOAK=1 $(CARGO) test --release --locked -p aligner --test integration -- kill cut:: bad_input

# Hostile components, hostile results and bad data of every kind against the host, SECONDS for each. What is found
# lies in tests/fuzz/artifacts, what was learnt in tests/fuzz/corpus, which begins with what is kept in tests/fuzz/kept.
SECONDS ?= 60
FUZZ ?= component results plugin_set jsonl gguf safetensors tokenizer template journal
fuzz: build
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing; this installs it: cargo install cargo-fuzz --locked"; exit 1; }
	cd tests/fuzz && for target in $(FUZZ); do \
	  case $$target in \
	    component | template) most=65536 patience=60 ;; \
	    results) most=4096 patience=60 ;; \
	    *) most=65536 patience=5 ;; \
	  esac; \
	  mkdir -p corpus/$$target && \
	  if [ -f kept/$$target.tar.xz ]; then tar -xJf kept/$$target.tar.xz -C corpus/$$target; fi && \
	  ALIGNER=$(CURDIR)/target/release/aligner $(CARGO) fuzz run --fuzz-dir . -s none $$target corpus/$$target seeds/$$target -- \
	    -max_total_time=$(SECONDS) -timeout=$$patience -rss_limit_mb=4096 -max_len=$$most \
	    || exit 1; \
	done

clean:
	$(CARGO) clean
	rm -rf runs
