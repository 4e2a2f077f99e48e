//! What people and strangers hand to aligner besides plugins, read as the program reads it. `make test` gives it
//! mutations of the seeds in `tests/fuzz/seeds`, `make fuzz` whatever libFuzzer finds.
//!
//! Nothing here is to panic, to hang, or to take more memory than twice the input and 64 MB. What comes of it is
//! a result or an error with words.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use aligner::cli::show::{self, ShowArgs};
use aligner::data::{self, Columns, LabelledFile, RecordFile, Upto};
use aligner::model::checkpoint::Checkpoint;
use aligner::model::gguf::Gguf;
use aligner::model::safetensors::Safetensors;
use aligner::model::spec::Spec;
use aligner::model::template::Template;
use aligner::model::tokenizer::Tokenizer;
use aligner::model::{config, peft};
use aligner::plugin_set::{self, Embedded, Source};
use aligner::record::{Message, Speaker};
use aligner::report::run::{RunView, page};
use aligner::run::{journal, manifest::Manifest};

/// A kind of input.
pub struct Input {
    /// Of its seeds and its fuzz target.
    pub name: &'static str,
    /// Reads the bytes as one. The folder is its own, and whatever lies there from before is its own too.
    pub read: fn(&Path, &[u8]),
}

/// Every kind.
pub const INPUTS: [Input; 7] = [
    Input { name: "plugin_set", read: plugin_set },
    Input { name: "jsonl", read: jsonl },
    Input { name: "gguf", read: gguf },
    Input { name: "safetensors", read: safetensors },
    Input { name: "tokenizer", read: tokenizer },
    Input { name: "template", read: template },
    Input { name: "journal", read: journal },
];

/// Returns a plugin set's words about what is wrong with it, which do not steer a terminal.
fn plugin_set(folder: &Path, bytes: &[u8]) {
    let path = put(folder, "set.toml", bytes);
    let embedded = Embedded { plugin_sets: &[], plugins: &["length", "judge"], data: &["prompts"] };
    match plugin_set::load(&path, &[], &embedded) {
        Ok(loaded) => drop(plugin_set::named(&loaded.text, &loaded.set)),
        Err(error) => {
            let said = format!("{error}\n{}", error.hint().unwrap_or_default());
            assert!(!said.contains(['\u{1b}', '\u{202e}', '\u{2066}']), "{said:?}");
        }
    }
}

/// Rows: prompts, held-out prompts, pairs, rows to score, labelled rows, records.
fn jsonl(folder: &Path, bytes: &[u8]) {
    let path = put(folder, "rows.jsonl", bytes);
    let (source, none) = (Source::File(path.clone()), |_: &str| None);
    heard(data::read_prompts(&source, &none));
    heard(data::read_held_out(&source, &none));
    heard(data::read_pairs(&source, &none));
    heard(data::read_score_rows(&source));
    let named = [("label", "y"), ("completion", "text")];
    let names = named.map(|(role, name)| (role.to_owned(), name.to_owned())).into();
    for columns in [Columns::default(), Columns { names, ..Columns::default() }] {
        let mut file = LabelledFile::open(&path, columns).expect("it is there");
        while let Ok(Some(_)) = file.chunk(7) {}
    }
    for upto in [Upto::Prompts, Upto::Pairs] {
        let mut file = RecordFile::open(&path, upto).expect("it is there");
        while file.chunk(7).is_ok_and(|rows| !rows.is_empty()) {}
    }
}

/// A GGUF file: its header, and where that is right its tokenizer, its template, its tensors.
fn gguf(folder: &Path, bytes: &[u8]) {
    let path = put(folder, "model.gguf", bytes);
    let Some(file) = heard(Gguf::open(&path)) else { return };
    tensors(&file);
    let Some(tokenizer) = heard(file.tokenizer()) else { return };
    encode(&tokenizer);
    if let Some(Some(template)) = heard(file.template("model", &tokenizer)) {
        render(&template);
    }
}

/// A safetensors file: as the weights of a folder, and as those of an adapter.
fn safetensors(folder: &Path, bytes: &[u8]) {
    put(folder, "model.safetensors", bytes);
    if let Some(file) = heard(Safetensors::open_folder(spec(), folder)) {
        tensors(&file);
    }
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"],
        "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM"}"#;
    put(folder, peft::CONFIG_FILE, config.as_bytes());
    put(folder, "adapter_model.safetensors", bytes);
    heard(peft::read(folder, &spec()));
}

/// A `tokenizer.json`, with settings beside it.
fn tokenizer(folder: &Path, bytes: &[u8]) {
    put(folder, "tokenizer.json", bytes);
    put(
        folder,
        "tokenizer_config.json",
        br#"{"eos_token": "</s>", "bos_token": {"content": "<s>"}}"#,
    );
    if let Some(tokenizer) = heard(Tokenizer::from_folder(folder)) {
        encode(&tokenizer);
    }
}

/// A chat template.
fn template(_: &Path, bytes: &[u8]) {
    let tokens = vec![("bos_token".to_owned(), "<s>".to_owned())];
    if let Some(template) = heard(Template::new("model", &String::from_utf8_lossy(bytes), tokens)) {
        render(&template);
    }
}

/// Files of a run, as a killed or malicious process left them. Each begins with a line `\u{1e}NAME`.
fn journal(folder: &Path, bytes: &[u8]) {
    const NAMES: [&str; 14] = [
        "run.json",
        "journal.jsonl",
        "timings.jsonl",
        "report.json",
        "pool/sample.jsonl",
        "pool/generate.jsonl",
        "rounds/01/sample.jsonl",
        "rounds/01/render.jsonl",
        "rounds/01/generate.jsonl",
        "rounds/01/judge.jsonl",
        "rounds/01/filter-generate.jsonl",
        "rounds/01/train.jsonl",
        "rounds/01/metrics.jsonl",
        "rounds/01/evaluate.jsonl",
    ];
    let run = folder.join("run");
    let _ = fs::remove_dir_all(&run);
    for file in bytes.split(|&byte| byte == 0x1e) {
        let end = file.iter().position(|&byte| byte == b'\n').unwrap_or(file.len());
        if let Some(name) = NAMES.iter().find(|name| name.as_bytes() == &file[..end]) {
            put(&run, name, file.get(end + 1..).unwrap_or_default());
        }
    }
    if let Some(entries) = heard(journal::read(&run)) {
        heard(journal::check_files(&run, &entries));
    }
    for (record, dropped) in [(None, false), (None, true), (Some("p-1"), false)] {
        let record = record.map(str::to_owned);
        let args = ShowArgs { directory: run.clone(), record, round: None, dropped };
        let _ = show::text(&args);
    }
    let manifest = heard(Manifest::read(&run)).flatten();
    if let Ok(report) = aligner::cli::report::read(&run) {
        report.table();
        page(&RunView::read(&run, manifest, report));
    }
}

/// Returns the shape of a model of next to nothing, whose tensors the seeds hold.
fn spec() -> Spec {
    let json = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4,
        "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 6, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "max_position_embeddings": 16}"#;
    let json = serde_json::from_str(json).expect("it is JSON");
    config::from_hugging_face(Path::new("config.json"), &json).expect("it is a model")
}

fn tensors(file: &dyn Checkpoint) {
    for (name, shape) in aligner::model::layout::tensors(file.spec()) {
        heard(file.tensor(&name, &shape));
    }
}

fn encode(tokenizer: &Tokenizer) {
    for text in
        ["", "a b <s> </s> é 日本 👩\u{200d}🔬 \u{0} 12345", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    {
        for ids in [tokenizer.encode(text), tokenizer.encode_plain(text)] {
            if let Some(ids) = heard(ids) {
                heard(tokenizer.decode(&ids));
            }
        }
    }
    heard(tokenizer.decode(&[0, 1, 5, u32::MAX]));
}

fn render(template: &Template) {
    let message = |speaker, content: &str| Message { speaker, content: content.into() };
    let user = message(Speaker::User, "Why is {{ the }} sky blue?");
    let system = message(Speaker::System, "Be brief.");
    let assistant = message(Speaker::Assistant, "It scatters.");
    for messages in [vec![user.clone()], vec![system, user.clone(), assistant, user]] {
        for start in [true, false] {
            heard(template.render_marked(&messages, start));
        }
    }
}

/// Returns what came of it; an error has words.
fn heard<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| assert!(!error.to_string().is_empty(), "an error without words"))
        .ok()
}

/// Puts a file into a folder.
fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder can be made");
    fs::write(&path, bytes).expect("a file can be written");
    path
}
