//! What does not go together, with the plugin sets that ship: model and principles, objective and
//! variants, filter and judge. Each is named with the way out, before anything is written where that
//! can be known.

use serde_json::{Value, json};

use super::Place;
use super::methods::{ANY_ANSWER, ANY_FORM, actor, ids, model, of, prompts, run};
use super::models::change_json;

/// A copy of the tiny model whose chat template begins with `rule`.
fn templated(place: &Place, name: &str, rule: &str) -> String {
    let folder = model(place, name, &|_| ());
    let says = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + \
                '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
                {{ '<|im_start|>assistant\\n' }}{% endif %}";
    let template = format!("{rule}{says}");
    change_json(&folder.join("tokenizer_config.json"), &|config| {
        config["chat_template"] = json!(template);
    });
    folder.display().to_string()
}

#[test]
fn principles_in_a_system_message_need_a_template_with_a_place_for_it() {
    let place = Place::new();
    let refuses = templated(
        &place,
        "refuses",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    );
    let swallows = templated(
        &place,
        "swallows",
        "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}",
    );
    let prompts = prompts();
    for (method, plugin) in
        [("rlcd", "contrast"), ("sso", "sso"), ("sso-v2", "sso"), ("expo", "contrast")]
    {
        for (model, why) in [
            (&refuses, "refuses system, user: no system"),
            (&swallows, "leaves out the system message"),
        ] {
            let plugin = format!("error: principle `{plugin}` ");
            let more = ["--prompts", &prompts, "--model", model];
            run(&place, method, "run", &more).expect(2).says(&[
                &plugin,
                model,
                why,
                "`system = \"user\"`",
            ]);
            assert!(!place.path("run").exists());
        }
    }
    // The way out.
    let more = ["--prompts", &prompts, "--model", &refuses, "--set", ANY_ANSWER];
    let more = [&more[..], &["--set", "principle.config.system='user'"]].concat();
    run(&place, "rlcd", "run", &more).expect(0);
}

#[test]
fn objectives_that_compare_need_the_variants_that_they_compare() {
    let place = Place::new();
    let prompts = prompts();
    let check = |method: &str, objective: &str, parts: &[&str]| {
        let objective = format!("train.objective='{objective}'");
        let more = ["--prompts", &prompts, "--set", &objective];
        run(&place, method, "run", &more).expect(2).says(parts);
        assert!(!place.path("run").exists());
    };
    let one = ["principle `self-align` 0.1.0 gives no bad variant, but `few-shot`", "hint: take"];
    check("soft", "dpo", &one);
    check("soft", "kto", &one);
    let plain = ["objective `sso`", "gives no plain variant, but `bad`, `good`", "`plain = true`"];
    check("rlcd", "sso", &plain);
}

#[test]
fn a_round_without_pairs_says_what_would_make_some() {
    let place = Place::new();
    let same = json!({ "prompt": "Why?", "chosen": "So it is.", "rejected": "So it is." });
    std::fs::write(place.path("same.jsonl"), format!("{same}\n")).unwrap();
    for objective in ["dpo", "kto", "orpo"] {
        let objective = format!("train.objective='{objective}'");
        let more = ["--from-data", "same.jsonl", "--fresh", "--set", &objective];
        let said = run(&place, "rlcd", "same", &more).expect(6);
        said.says(&["kept none of its 1 record: identical 1", "give pairs that differ"]);
    }
    // Its folder is a run like others.
    place.aligner(&["resume", "same"]).expect(6);
    let dropped = place.aligner(&["show", "same", "--dropped"]).expect(0);
    assert!(dropped.stdout.contains("identical"), "{}", dropped.stdout);
}

#[test]
fn what_a_judge_cannot_read_is_dropped_and_counted() {
    let place = Place::new();
    let words = [" 9||good", " 8||fine", " 7||well", " soon"];
    let scorer = format!("models.scorer='{}'", actor(&place, "scorer", "your score is:", &words));
    let judge = "judge={ plugin = 'builtin:self-assessment', ask = { models = ['scorer'] }, \
                 config = { model = 'scorer', prompt = 'icl', render_as = 'raw' } }";
    let prompts = prompts();
    let more = ["--prompts", &prompts, "--rounds", "1", "--set", ANY_FORM, "--set", &scorer];
    let said = run(&place, "soft", "run", &[&more[..], &["--set", judge]].concat()).expect(0);
    let files = place.files("run");
    let judged = of(&files, 1, "judge").into_iter();
    let (unread, read): (Vec<Value>, Vec<Value>) =
        judged.partition(|row| row["opinion"]["unparsable"].is_string());
    assert!(!unread.is_empty() && !read.is_empty(), "{unread:?} {read:?}");
    assert!(
        unread.iter().all(|row| row["opinion"]["unparsable"].as_str().unwrap().contains("soon"))
    );
    assert_eq!(ids(&of(&files, 1, "train"), "record_id"), ids(&read, "id"));
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    assert_eq!(report["rounds"][0]["dropped"]["unparsable"], unread.len());
    let counted = format!("unparsable {}", unread.len());
    assert!(said.stdout.contains(&counted), "{}", said.stdout);
    let shown = place.aligner(&["show", "run", unread[0]["id"].as_str().unwrap()]).expect(0);
    assert!(shown.stdout.contains("dropped: unparsable, "), "{}", shown.stdout);
    let shown = place.aligner(&["show", "run", read[0]["id"].as_str().unwrap()]).expect(0);
    assert!(shown.stdout.contains("few-shot quality "), "{}", shown.stdout);
    // Where nothing can be read, the run says so. A random model gives no scores.
    let random = judge.replace("scorer", "initial");
    let said = run(&place, "soft", "random", &[&more[..], &["--set", &random]].concat()).expect(6);
    said.says(&["unparsable", "the judge could not read", "`judge.jsonl`"]);
}

#[test]
fn bounds_on_what_nothing_gives_name_where_it_comes_from() {
    let place = Place::new();
    let prompts = prompts();
    let check = |config: &str, parts: &[&str]| {
        let filter = format!(
            "filter=[{{ after = 'generate', plugin = 'builtin:threshold', config = {{ {config} }} }}]"
        );
        let more = ["--prompts", &prompts, "--fresh", "--set", &filter];
        run(&place, "rlcd", "run", &more).expect(3).says(parts);
    };
    check(
        "rewards = { quality = 3 }",
        &["no reward `quality`; it has: none", "from the judge", "`after = \"judge\"`"],
    );
    check(
        "measurements = { 'perplexity(good)' = { under = 50 } }",
        &["no measurement `perplexity(good)`; it has: none", "another plugin, there or before"],
    );
}
