//! All that the simulation assumes, in one place: each number with its unit and where it is from.

/// Where a number is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `tests/simulate/measure` printed it; the row of its output.
    Measured(&'static str),
    /// A data sheet, a configuration or a source says so.
    Published(&'static str),
    /// A default or a constant of aligner.
    Aligner(&'static str),
    /// Nobody here has looked: why it may be about right.
    Assumed(&'static str),
}

/// One of the numbers, as it is told to a reader.
pub struct Described {
    /// Its name, as `--set` takes it.
    pub name: &'static str,
    /// What it is of.
    pub what: &'static str,
    /// Its unit; empty where it is a count or a share.
    pub unit: &'static str,
    /// Where it is from.
    pub origin: Origin,
    /// Where it stands.
    pub of: fn(&mut Assumptions) -> &mut f64,
}

macro_rules! assumptions {
    ($($name:ident = $value:literal, $unit:literal, $origin:expr, $what:literal;)*) => {
        /// What a simulation goes by.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Assumptions {
            $(#[doc = $what] pub $name: f64,)*
        }

        impl Default for Assumptions {
            fn default() -> Assumptions {
                Assumptions { $($name: $value,)* }
            }
        }

        /// What the numbers are and where they are from, in the order of the table.
        pub const DESCRIBED: &[Described] = &[
            $(Described {
                name: stringify!($name),
                what: $what,
                unit: $unit,
                origin: $origin,
                of: |assumptions| &mut assumptions.$name,
            },)*
        ];
    };
}

use Origin::{Aligner, Assumed, Measured, Published};

const LLAMA: Origin = Published("`config.json` of Llama 3 70B");
const H100: Origin = Published("NVIDIA's data sheet of the H100 SXM");
const VLLM: Origin = Published("vLLM's default for its server on cards of 70 GiB and more");

assumptions! {
    // The model.
    billions = 70.6, "10⁹", LLAMA, "weights of the model";
    layers = 80.0, "", LLAMA, "layers";
    hidden = 8192.0, "", LLAMA, "width of a row between layers";
    kv_heads = 8.0, "", LLAMA, "heads of keys and values";
    head_dim = 128.0, "", LLAMA, "width of a head";
    bytes_per_number = 2.0, "bytes", Assumed("bf16 for weights, keys and values"), "bytes of a weight, a key, a value";

    // The machines.
    gpus = 64.0, "", Assumed("the question"), "GPUs";
    gpus_per_server = 8.0, "", Assumed("tensor parallelism within a machine"), "GPUs that serve one copy of the model";
    training_gpus = 0.0, "", Assumed("serving and training take turns on all of them"), "GPUs set aside for training; 0: they take turns";
    gpu_tflops = 989.0, "TFLOP/s", H100, "dense bf16 of a GPU";
    gpu_memory_gb = 80.0, "GB", H100, "memory of a GPU";
    gpu_tb_per_second = 3.35, "TB/s", H100, "bandwidth of that memory";
    link_gb_per_second = 450.0, "GB/s", H100, "NVLink of a GPU, one direction";
    disk_gb_per_second = 2.0, "GB/s", Assumed("a shared file system under eight readers"), "what a machine reads of the shared file system";
    network_ms = 0.5, "ms", Assumed("a request within a data centre, balancer included"), "one way between host and server";

    // What the servers make of them.
    compute_share = 0.55, "", Assumed("large products in bf16 under tensor parallelism"), "of the TFLOP/s, when prompts are read";
    bandwidth_share = 0.7, "", Assumed("decoding kernels"), "of the TB/s, when tokens are written";
    link_share = 0.6, "", Assumed("all-reduce of large messages"), "of the NVLink";
    all_reduce_us = 12.0, "µs", Assumed("all-reduce of a small message over eight GPUs"), "an all-reduce at least; two a layer";
    step_ms = 3.0, "ms", Assumed("scheduler, sampling and logprobs"), "a step besides its products";
    lora_slowdown = 1.1, "×", Assumed("kernels for one adapter in use"), "a step with an adapter";
    memory_share = 0.9, "", Published("vLLM's `gpu_memory_utilization`"), "of the memory that the server takes";
    buffers_gb = 4.0, "GB", Assumed("activations, graphs, NCCL, an adapter"), "memory of each GPU that is neither weights nor cache";
    tokens_per_step = 8192.0, "tokens", VLLM, "tokens of a step, read or written";
    most_running = 1024.0, "", VLLM, "sequences under way in a server";

    // The work of a round.
    seed = 17.0, "", Assumed("any"), "of all that is drawn";
    prompts = 100000.0, "", Assumed("a third of Dromedary-1's 366,718"), "prompts of the round";
    samples = 1.0, "", Assumed("SOFT+: one variant"), "completions of each prompt";
    common_tokens = 1100.0, "tokens", Assumed("sixteen principles, the same for every prompt"), "prompt that is the same for all, and cached";
    own_tokens = 800.0, "tokens", Assumed("five exemplars, drawn anew, and the question"), "prompt of each that no other has, mean";
    question_tokens = 60.0, "tokens", Assumed("a question without exemplars"), "of these the question, which training sees";
    answer_tokens = 220.0, "tokens", Assumed("thoughts and an answer of SELF-ALIGN's format"), "answer, median of a log-normal distribution";
    answer_sigma = 0.6, "", Assumed("the longest in a hundred is four times the median"), "its width: σ of ln tokens";
    answer_most = 512.0, "tokens", Published("Dromedary-2's `max_new_tokens`"), "answer at most";
    kept_generate = 0.7, "", Published("Dromedary-1 kept 68 to 72 %"), "kept by the filters after generation";
    judge_asks = 2.0, "", Aligner("`builtin:self-assessment`"), "questions that the judge asks of a record";
    judge_common_tokens = 400.0, "tokens", Assumed("instructions and scored examples"), "question that is the same for all";
    judge_answer_tokens = 16.0, "tokens", Aligner("its `max_new_tokens`"), "the judge's answer";
    kept_judge = 0.5, "", Assumed("a threshold on both scores"), "kept by the filter after the judge";
    scored = 1.0, "", Aligner("`builtin:perplexity` with `under = \"plain\"`"), "scores that difficulty takes of a record; 0: none";
    held_out = 200.0, "", Assumed("five times what ships"), "held-out answers that are scored at the end";

    // Training.
    train_epochs = 1.0, "", Aligner("SOFT+"), "epochs";
    train_batch = 128.0, "rows", Published("Dromedary-2"), "rows of an update";
    train_template_tokens = 30.0, "tokens", Assumed("markers of a chat"), "of a row besides question and answer";
    train_flops = 6.0, "", Assumed("forward, again for checkpointing, and backward without the gradients of frozen weights"), "operations a weight and a token";
    train_share = 0.3, "", Assumed("short rows, sharded weights gathered for each layer"), "of the TFLOP/s";
    train_step_seconds = 2.0, "s", Assumed("weights gathered from 64 GPUs, of which small updates hide little"), "an update besides its products";
    train_launch_seconds = 60.0, "s", Assumed("torchrun, imports, NCCL on eight machines"), "a job before it loads weights";
    stop_seconds = 20.0, "s", Assumed("their memory is free again"), "servers to stop";
    start_seconds = 90.0, "s", Assumed("imports, compilation from a cache, CUDA graphs"), "servers to start, besides weights";
    adapter_rank = 16.0, "", Aligner("SOFT+, on all linear layers"), "rank of the adapter";

    // The host.
    in_flight = 4096.0, "", Assumed("512 a server; the default of aligner is 256"), "requests under way at once";
    burst = 256.0, "", Aligner("`flight.rs`"), "requests made before any of them is sent";
    timeout_seconds = 600.0, "s", Aligner("`timeout_seconds`"), "after which a request is sent again";
    host_cores = 16.0, "", Assumed("a node's share"), "cores of the host, which plugins and the embedded engine use";
    request_ms = 0.636, "ms", Measured("request"), "a request with a short prompt and a short answer";
    prompt_ms = 1.45, "ms", Measured("judge-raw"), "1000 tokens of a prompt: tokenised, most of all, and sent";
    render_ms = 0.37, "ms", Measured("request-raw"), "sampler and principle plugin over a prompt";
    chat_ms = 0.227, "ms", Measured("request-chat"), "a prompt that is a chat: its template renders in another process";
    chat_prompt_ms = 0.578, "ms", Measured("request-user"), "1000 tokens of such a prompt besides";
    answer_ms = 2.5, "ms", Measured("request-long"), "1000 tokens of an answer: read, decoded, journalled";
    chats = 0.0, "", Aligner("`render_as = \"raw\"`, its plugins' default"), "1 where what is generated and judged are chats, 0 where it is raw text; what is scored is a chat";
    sync_ms = 0.0, "ms", Aligner("one sync a second for all answers"), "each answer's line in the ledger to be on the disk, while nothing else is done";
    filter_ms = 0.331, "ms", Measured("filter"), "filters over a record";
    score_ms = 0.025, "ms", Measured("score-known"), "the difficulty plugin over a record, without its requests";
    host_read_seconds = 4.99, "s/GB", Measured("embedded-load"), "weights into the embedded engine, on one core";
    host_score_ms = 5.37, "ms", Measured("embedded-score"), "a token under 10⁹ weights in it, on one core";
    host_cores_share = 0.7, "", Assumed("reading and products in parallel"), "of its cores that the embedded engine makes use of";
    probe_rows = 0.0, "rows", Aligner("the server scores them; with `embedded = [\"scores\"]` the engine: `trainer::PROBE_ROWS`, 4"), "rows that the embedded engine scores to see whether TRL trains the same model; 0: none";
    host_adapter_seconds = 3.0, "s/GB", Assumed("written, read, digested and written again"), "an adapter through the host";
}

impl Assumptions {
    /// Sets one by its name.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        let described = DESCRIBED.iter().find(|described| described.name == name);
        let described = described.ok_or_else(|| format!("there is no assumption `{name}`"))?;
        if !value.is_finite() || value < 0.0 {
            return Err(format!("`{name}` is a number from 0 on"));
        }
        *(described.of)(self) = value;
        Ok(())
    }

    /// Says what cannot be simulated.
    pub fn check(&self) -> Result<(), String> {
        if self.cache_tokens().is_none() {
            return Err(format!(
                "the weights do not fit into {} GPUs of {} GB",
                self.gpus_per_server, self.gpu_memory_gb
            ));
        }
        let one = [
            ("gpus_per_server", self.gpus_per_server),
            ("in_flight", self.in_flight),
            ("burst", self.burst),
            ("tokens_per_step", self.tokens_per_step),
            ("most_running", self.most_running),
            ("host_cores", self.host_cores),
            ("train_batch", self.train_batch),
        ];
        match one.iter().find(|(_, value)| *value < 1.0) {
            Some((name, _)) => Err(format!("`{name}` is at least 1")),
            None if self.serving_gpus() < self.gpus_per_server => {
                Err("there are not GPUs enough for one server".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Returns the same with a host that takes no time.
    pub fn without_host(&self) -> Assumptions {
        let mut free = self.clone();
        free.scale_host(0.0);
        free
    }

    /// Makes all that the host does take so many times as long.
    pub fn scale_host(&mut self, times: f64) {
        for cost in [
            &mut self.request_ms,
            &mut self.prompt_ms,
            &mut self.chat_ms,
            &mut self.chat_prompt_ms,
            &mut self.answer_ms,
            &mut self.sync_ms,
            &mut self.filter_ms,
            &mut self.render_ms,
            &mut self.score_ms,
            &mut self.host_read_seconds,
            &mut self.host_score_ms,
            &mut self.host_adapter_seconds,
        ] {
            *cost *= times;
        }
    }

    /// Returns the bytes of the weights.
    pub fn weight_bytes(&self) -> f64 {
        self.billions * 1e9 * self.bytes_per_number
    }

    /// Returns the bytes of a token's keys and values.
    pub fn cache_bytes(&self) -> f64 {
        2.0 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_number
    }

    /// Returns how many GPUs serve.
    pub fn serving_gpus(&self) -> f64 {
        self.gpus - self.training_gpus
    }

    /// Returns how many servers there are.
    pub fn servers(&self) -> usize {
        ((self.serving_gpus() / self.gpus_per_server) as usize).max(1)
    }

    /// Returns how many tokens fit into the cache of a server; none where the weights leave no room.
    pub fn cache_tokens(&self) -> Option<f64> {
        let each = self.gpu_memory_gb * self.memory_share - self.buffers_gb;
        let room = 1e9 * each * self.gpus_per_server - self.weight_bytes();
        (room > 0.0).then(|| (room / self.cache_bytes()).floor())
    }

    /// Returns the gigabytes of an adapter in f32: pairs of a Llama's seven linear layers, whose inner width is told by
    /// the number of weights.
    pub fn adapter_gb(&self) -> f64 {
        let kv = self.kv_heads * self.head_dim;
        let attention = 2.0 * self.hidden * self.hidden + 2.0 * self.hidden * kv;
        let inner = (self.billions * 1e9 / self.layers - attention).max(0.0) / (3.0 * self.hidden);
        let widths = 4.0 * self.hidden + 2.0 * (self.hidden + kv) + 3.0 * (self.hidden + inner);
        4.0 * self.adapter_rank * self.layers * widths / 1e9
    }
}
