use super::*;
use crate::record::{Completion, Finish, Pair, Repro, Revision, Reward, Variant, VariantRole};

fn expect(result: Check, expected: &str) {
    match result {
        Ok(()) => assert_eq!(expected, ""),
        Err(message) => {
            assert!(
                !expected.is_empty() && message.contains(expected),
                "{message}\n  lacks\n{expected}"
            );
        }
    }
}

fn record() -> Record {
    let prompt = Prompt { id: "p".into(), text: Text::user("q"), tags: vec![] };
    let completion = Completion {
        text: "a".into(),
        tokens: 1,
        logprob: -1.0,
        entropy: Some(0.0),
        finish: Finish::Stop,
        repro: Repro::Exact,
    };
    let variant = |name: &str, completion| Variant {
        name: name.into(),
        role: VariantRole::Plain,
        prompt: Text::user("q"),
        completion,
    };
    let mut record = Record::new(prompt);
    record.variants = vec![
        variant("a", Some(completion.clone())),
        variant("b", Some(completion)),
        variant("c", None),
    ];
    record
}

#[test]
fn verdicts() {
    let revision = |name: &str, text: &str| Revision {
        variant: name.into(),
        text: text.into(),
        finish: Finish::Stop,
    };
    let check = |verdict: Verdict, expected| expect(super::verdict(&verdict, &record()), expected);
    check(Verdict::Keep, "");
    check(Verdict::Drop("repetition".into()), "");
    check(Verdict::Drop(String::new()), "an empty drop reason");
    check(Verdict::Drop("a\nb".into()), "a line break");
    check(Verdict::Drop("x".repeat(200)), "");
    check(Verdict::Drop("x".repeat(201)), "of 201 bytes");
    check(Verdict::Drop("ä".repeat(101)), "of 202 bytes");
    check(Verdict::Revise(vec![]), "revises nothing");
    check(Verdict::Revise(vec![revision("a", "new")]), "");
    check(Verdict::Revise(vec![revision("a", " \n")]), "to an empty text");
    check(Verdict::Revise(vec![revision("d", "x")]), "the record has `a`, `b`, `c`");
    check(Verdict::Revise(vec![revision("c", "x")]), "which has no completion");
    check(Verdict::Revise(vec![revision("a", "x"), revision("a", "y")]), "`a` twice");
}

#[test]
fn opinions() {
    let reward =
        |variant: &str, value| Reward { variant: variant.into(), name: "quality".into(), value };
    let pair = |chosen: &str, rejected: &str| {
        Opinion::Preference(Pair { chosen: chosen.into(), rejected: rejected.into() })
    };
    let check = |opinion: Opinion, expected| expect(super::opinion(&opinion, &record()), expected);
    check(Opinion::Tie, "");
    check(Opinion::Rewards(vec![]), "an empty list");
    check(Opinion::Rewards(vec![reward("a", 1.0), reward("b", -1.0)]), "");
    check(Opinion::Rewards(vec![reward("a", f64::NAN)]), "as NaN; it must be finite");
    check(Opinion::Rewards(vec![reward("a", f64::NEG_INFINITY)]), "as -inf");
    check(Opinion::Rewards(vec![reward("c", 1.0)]), "no completion");
    check(Opinion::Rewards(vec![reward("a", 1.0), reward("a", 1.0)]), "twice");
    check(pair("a", "b"), "");
    check(pair("a", "a"), "to itself");
    check(pair("a", "z"), "names variant `z`");
}

#[test]
fn decodings() {
    let check = |change: fn(&mut Decoding), expected| {
        let mut decoding = Decoding::default();
        change(&mut decoding);
        expect(super::decoding(&decoding), expected);
    };
    check(|_| {}, "");
    check(|d| d.temperature = Some(0.0), "");
    check(|d| d.temperature = Some(-0.1), "temperature to -0.1");
    check(|d| d.temperature = Some(f64::NAN), "temperature to NaN");
    check(|d| d.temperature = Some(10.5), "temperature to 10.5");
    check(|d| d.top_p = Some(0.0), "top-p to 0");
    check(|d| d.top_p = Some(1.0), "");
    check(|d| d.top_p = Some(1.01), "top-p to 1.01");
    check(|d| d.repetition_penalty = Some(0.0), "repetition-penalty to 0");
    check(|d| d.repetition_penalty = Some(f64::INFINITY), "repetition-penalty to inf");
    check(|d| d.max_new_tokens = Some(0), "max-new-tokens to 0");
    check(|d| d.stop = Some(vec!["x".into(); 16]), "");
    check(|d| d.stop = Some(vec!["x".into(); 17]), "17 stop strings");
    check(|d| d.stop = Some(vec![String::new()]), "an empty stop string");
}

#[test]
fn rendered_variants() {
    let variant = |name: &str, prompt| wit::VariantResult {
        name: name.into(),
        role: wit::VariantRole::Plain,
        prompt,
        completion: None,
    };
    let raw = || wit::TextResult::Raw("q".into());
    let check = |list: &[wit::VariantResult], expected| expect(variants(list), expected);
    check(&[], "no variant");
    check(&[variant("a", raw()), variant("b", raw())], "");
    check(&[variant("a", raw()), variant("a", raw())], "variant `a` twice");
    check(&[variant("", raw())], "an empty variant name");
    check(&[variant("a", wit::TextResult::Raw(String::new()))], "an empty prompt");
    check(&[variant("a", wit::TextResult::Chat(vec![]))], "without messages");
    let message = wit::MessageResult { speaker: wit::Speaker::Assistant, content: "x".into() };
    check(&[variant("a", wit::TextResult::Chat(vec![message]))], "last message is the assistant's");
    let completion = wit::CompletionResult {
        text: String::new(),
        tokens: 1,
        logprob: 0.0,
        finish: wit::Finish::Stop,
    };
    let complete = wit::VariantResult { completion: Some(completion), ..variant("a", raw()) };
    check(&[complete], "completions are the model's");
    check(
        &[variant("a", wit::TextResult::Raw("x".repeat(MAX_TEXT_BYTES + 1)))],
        "of 1048577 bytes",
    );
}

#[test]
fn requests() {
    let score = |prompt, completion: &str| Request::Score {
        model: "policy".into(),
        prompt,
        completion: completion.into(),
    };
    let check = |request: Request, expected| expect(super::request(&request), expected);
    check(score(Text::Raw(String::new()), "x"), "");
    check(score(Text::Raw("x".into()), ""), "an empty completion");
    check(score(Text::user("x"), ""), "");
    check(score(Text::Chat(vec![]), "x"), "without messages");
    let generate = |model: &str, temperature| Request::Generate {
        model: model.into(),
        prompt: Text::user("x"),
        decoding: Decoding { temperature: Some(temperature), ..Decoding::default() },
        seed: 0,
    };
    check(generate("policy", 1.0), "");
    check(generate("policy", 11.0), "temperature to 11");
    check(generate("", 1.0), "an empty model name");
}

#[test]
fn descriptions() {
    let good = || meta::Description {
        name: "self-align-format".into(),
        version: "0.1.0".into(),
        summary: "One line.".into(),
        config_schema: String::new(),
        needs: vec![],
    };
    let check = |change: fn(&mut meta::Description), expected| {
        let mut description = good();
        change(&mut description);
        expect(super::description(&description), expected);
    };
    check(|_| {}, "");
    for name in ["", "-", "a-", "-a", "A", "a b", "a\x1b", "1a", "ä", "a--b"] {
        let description = meta::Description { name: name.into(), ..good() };
        expect(super::description(&description), "lower-case words");
    }
    for version in ["1.2.3", "1.2.3-rc.1", "1.2.3+b", "1.2.3-x+y.z"] {
        assert!(is_version(version), "{version}");
    }
    for version in ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.x", "1.2.3-", "1.2.3+", "1..3"] {
        assert!(!is_version(version), "{version}");
    }
    check(|d| d.summary = "a\nb".into(), "not one line");
    check(|d| d.config_schema = "{}".into(), "");
    check(|d| d.config_schema = "[]".into(), "not a JSON object");
    check(|d| d.needs = vec![String::new()], "an empty measurement name");
}

#[test]
fn choices() {
    let check = |ids: &[&str], expected: Result<&[usize], &str>| {
        let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
        let result = positions("prompt", &ids, ["a", "b", "c"].into_iter());
        match expected {
            Ok(expected) => assert_eq!(result.as_deref(), Ok(expected)),
            Err(expected) => expect(result.map(|_| ()), expected),
        }
    };
    check(&[], Ok(&[]));
    check(&["c", "a"], Ok(&[2, 0]));
    check(&["a", "a"], Err("chose prompt `a` twice"));
    check(&["d"], Err("chose prompt `d`, which is not there"));
}

#[test]
fn catalogues_and_prompts() {
    let exemplar = |id: &str, text: &str| Exemplar {
        id: id.into(),
        tags: vec!["t".into()],
        text: text.into(),
    };
    expect(catalogue(&[exemplar("a", "x"), exemplar("b", "x")]), "");
    expect(catalogue(&[exemplar("a", "x"), exemplar("a", "x")]), "exemplar `a` twice");
    expect(catalogue(&[exemplar("a", "")]), "no text");
    let prompt = |text: &str| Prompt { id: String::new(), text: Text::user(text), tags: vec![] };
    expect(prompts(&[prompt("x")]), "");
    expect(prompts(&[prompt(" ")]), "asks nothing");
}
