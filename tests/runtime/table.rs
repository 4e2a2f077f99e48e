//! Guests that break the contract, and what the user reads: the texts lie in `tests/guests/errors`,
//! one file for each guest. `BLESS=1` writes them anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aligner::plugin::{Candidate, Kind, Limits, NoAnswers, PluginError, Setup, Source, Spent};

use super::asking::{self, Model};
use super::{PLACE, RUNTIME, calls, check_sound, files, guests, mode, modules, records};

/// How a guest is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Filter,
    FilterSet,
    Score,
    Judge,
    Catalogue,
    Render,
    Select,
    Equip,
    Write,
}

/// One guest, and how it is used.
pub struct Case {
    name: String,
    source: Source,
    setup: Setup,
    call: Call,
    ids: Vec<&'static str>,
    answers: bool,
}

impl Case {
    /// A guest that is used as a filter over three records.
    pub fn new(name: &str, bytes: Vec<u8>) -> Case {
        Case {
            name: name.into(),
            source: Source::bytes(format!("{name}.wasm"), bytes),
            setup: Setup::new(Kind::Filter),
            call: Call::Filter,
            ids: vec!["p-1", "p-2", "p-3"],
            answers: false,
        }
    }

    /// The Rust guest in a mode.
    pub fn rust(name: &str, how: &str) -> Case {
        let mut case = Case { source: guests::hostile(), ..Case::new(name, Vec::new()) };
        case.setup.config = mode(how);
        case
    }

    fn used(self, kind: Kind, call: Call) -> Case {
        Case { setup: Setup { kind, ..self.setup }, call, ..self }
    }

    /// Changes how it is set up.
    pub fn with(mut self, change: impl FnOnce(&mut Setup)) -> Case {
        change(&mut self.setup);
        self
    }

    /// Changes its limits.
    pub fn limits(self, change: impl FnOnce(&mut Limits)) -> Case {
        self.with(|setup| change(&mut setup.limits))
    }

    /// Uses it over these records.
    pub fn over(self, ids: &[&'static str]) -> Case {
        Case { ids: ids.to_vec(), ..self }
    }

    /// Lets it ask a model, which answers.
    pub fn asking(mut self) -> Case {
        asking::grant(&mut self.setup);
        Case { answers: true, ..self }
    }

    /// Uses it as a filter over the whole stage.
    pub fn set_filter(self) -> Case {
        self.used(Kind::Filter, Call::FilterSet)
    }

    /// Uses it as a difficulty scorer.
    pub fn difficulty(self) -> Case {
        self.used(Kind::Difficulty, Call::Score)
    }

    /// Uses it as a judge.
    pub fn judge(self) -> Case {
        self.used(Kind::Judge, Call::Judge)
    }

    /// Uses it as a principle plugin, for its catalogue.
    pub fn catalogue(self) -> Case {
        self.used(Kind::Principle, Call::Catalogue)
    }

    /// Uses it as a principle plugin.
    pub fn render(self) -> Case {
        self.used(Kind::Principle, Call::Render)
    }

    /// Uses it as a sampler that selects.
    pub fn select(self) -> Case {
        self.used(Kind::Sampler, Call::Select)
    }

    /// Uses it as a sampler that equips.
    pub fn equip(self) -> Case {
        self.used(Kind::Sampler, Call::Equip)
    }

    /// Uses it as a sampler that writes.
    pub fn write(self) -> Case {
        self.used(Kind::Sampler, Call::Write)
    }

    fn run(&self) -> Result<(), PluginError> {
        let plugin = RUNTIME.load(&self.source, self.setup.clone())?;
        let records = records(&self.ids);
        let prompts: Vec<_> = records.iter().map(|record| record.prompt.clone()).collect();
        let (mut model, mut nobody) = (Model::default(), NoAnswers);
        let answerer: &mut dyn aligner::plugin::Answerer =
            if self.answers { &mut model } else { &mut nobody };
        match self.call {
            Call::Filter => plugin.filter(&PLACE, &records, answerer).map(drop),
            Call::FilterSet => plugin.filter_set(&PLACE, &[], &records).map(drop),
            Call::Score => plugin.score(&PLACE, &records, answerer).map(drop),
            Call::Judge => plugin.judge(&PLACE, &records, answerer).map(drop),
            Call::Catalogue => plugin.catalogue().map(drop),
            Call::Render => plugin.render(&PLACE, &records, answerer).map(drop),
            Call::Select => {
                let candidate = |id: &String| Candidate {
                    id: id.clone(),
                    tags: vec![],
                    difficulty: None,
                    selected: 0,
                };
                let ids = prompts.iter().map(|prompt| &prompt.id);
                plugin.select(&PLACE, &ids.map(candidate).collect::<Vec<_>>()).map(drop)
            }
            Call::Equip => {
                let exemplar = |id: &str| aligner::record::Exemplar {
                    id: id.into(),
                    tags: vec![],
                    text: "text".into(),
                };
                plugin.equip(&PLACE, &prompts, &["e1", "e2", "e3"].map(exemplar)).map(drop)
            }
            Call::Write => {
                plugin.write(&PLACE, &prompts, 0..2, Spent::default(), answerer).map(drop)
            }
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/errors")
}

/// Takes the line out of places in the guests' source, which moves with every change to it.
fn without_lines(text: &str) -> String {
    let mut parts = text.split("src/lib.rs:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("src/lib.rs:LINE");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':'));
    }
    out
}

/// Runs every guest and compares its error, word for word. After each one the same process has to do
/// a normal run.
pub fn check(cases: Vec<Case>) {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let path = folder().join(format!("{}.txt", case.name));
        let error = match case.run() {
            Ok(()) => "nothing: it was let through\n".to_owned(),
            Err(error) => without_lines(&format!("error: {error}\n")),
        };
        check_sound();
        assert!(!error.contains('\x1b'), "{}: {error:?} holds an escape sequence", case.name);
        if bless {
            std::fs::write(&path, &error).expect("the file can be written");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if error != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- found\n{error}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_guest_has_its_words() {
    let tables = [calls::cases(), modules::cases(), files::cases(), asking::cases()];
    let names: Vec<String> = tables.into_iter().flatten().map(|case| case.name).collect();
    let distinct: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(distinct.len(), names.len(), "two guests have one name");
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the texts are there")
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .map(|name| name.trim_end_matches(".txt").to_owned())
        .collect();
    assert_eq!(files, distinct);
    let let_through = |name: &&String| {
        let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        text.starts_with("nothing")
    };
    assert_eq!(distinct.iter().filter(let_through).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(distinct.len(), 151);
}
