//! The first version's principles: seven features of a good answer, each with a good and a bad text,
//! of which the model names those that matter for a query.

use aligner_sdk::{Answer, Ask, Decoding, Error, GenerateRequest, Rng, Text};
use serde::Deserialize;

use crate::{Guidelines, Writer};

/// The seven features, and after them the one that is appended at times. One a line.
const FEATURES: &str = include_str!("../data/features.jsonl");

/// How many features the model chooses from.
pub(crate) const CHOICE: usize = 7;

/// Something that answers can be good or bad at.
#[derive(Deserialize)]
pub(crate) struct Feature {
    /// One word, as the model is to write it.
    pub name: String,
    /// What an answer does that has it.
    meaning: String,
    pub good: Side,
    pub bad: Side,
}

/// One side of a feature.
#[derive(Clone, Deserialize)]
pub(crate) struct Side {
    /// What such an answer is.
    pub adjective: String,
    /// How to write one.
    pub text: String,
}

/// Reads the features. The last is not among the choice.
pub(crate) fn features() -> Result<Vec<Feature>, Error> {
    let read = |line: &str| {
        serde_json::from_str(line).map_err(|error| Error::Internal(format!("a feature: {error}")))
    };
    FEATURES.lines().map(read).collect()
}

/// Asks which features matter, draws `count` of those that are named, and fills up with others.
pub(crate) fn choose(
    features: &[Feature],
    count: usize,
    model: &str,
    query: &str,
    rng: &mut Rng,
    ask: &mut Ask,
) -> Result<Vec<usize>, Error> {
    let decoding =
        Decoding { max_new_tokens: Some(32), stop: Some(vec![END.into()]), ..Decoding::default() };
    let prompt = Text::Raw(question(features, query));
    let request = GenerateRequest { decoding, ..GenerateRequest::of(model, prompt) };
    let named = match ask.generate(request) {
        Ok(answer) => named(features, &answer.text),
        // A query that is too long for the model: as if it had named none.
        Err(Error::Unanswered(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(draw(named, count, rng))
}

/// Draws `count` of the choice: first from those that are named, in random order.
pub(crate) fn draw(mut named: Vec<usize>, count: usize, rng: &mut Rng) -> Vec<usize> {
    rng.shuffle(&mut named);
    let others = rng.choose(CHOICE, CHOICE).into_iter().filter(|other| !named.contains(other));
    let others: Vec<usize> = others.collect();
    named.into_iter().chain(others).take(count).collect()
}

/// Lets the model write texts for this very query. A feature whose texts cannot be read keeps its
/// own.
pub(crate) fn rewrite(
    chosen: &mut [(Side, Side)],
    writer: &Writer<'_>,
    query: &str,
    ask: &mut Ask,
) -> Result<(), Error> {
    let request = |(good, bad): &(Side, Side)| {
        writer.request(Text::user(order(&good.adjective, &bad.adjective, query)), None).into()
    };
    let requests: Vec<_> = chosen.iter().map(request).collect();
    for ((good, bad), answer) in chosen.iter_mut().zip(ask.all(requests)?) {
        let Answer::Completion(answer) = answer else { continue };
        if let Some(texts) = texts(&answer.text) {
            (good.text, bad.text) = texts;
        }
    }
    Ok(())
}

/// Writes what is said to the model for some features.
pub(crate) fn guidelines(chosen: &[(Side, Side)]) -> Guidelines {
    let write = |side: fn(&(Side, Side)) -> &Side| {
        let adjectives: Vec<&str> = chosen.iter().map(|it| side(it).adjective.as_str()).collect();
        let texts: Vec<&str> = chosen.iter().map(|it| side(it).text.as_str()).collect();
        crate::instructions(
            &format!("Give the user an answer that is {}.", listed(&adjectives)),
            &texts,
        )
    };
    Guidelines { good: write(|it| &it.0), bad: write(|it| &it.1) }
}

/// Joins words as in a sentence.
fn listed(words: &[&str]) -> String {
    match words {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        words => words.concat(),
    }
}

/// What ends an example of the few-shot prompts.
const END: &str = "###";

/// Asks which features matter for a query, as raw text.
fn question(features: &[Feature], query: &str) -> String {
    let mut text = String::from("Answers can be judged by these qualities:\n\n");
    for feature in &features[..CHOICE] {
        text.push_str(&format!("{}: the answer {}.\n", feature.name, feature.meaning));
    }
    text.push_str("\nFor each query, the qualities that matter most in an answer to it:\n\n");
    for (query, qualities) in EXAMPLES {
        text.push_str(&format!("Query: {query}\nQualities: {qualities}\n{END}\n\n"));
    }
    text.push_str(&format!("Query: {}\nQualities:", query.trim()));
    text
}

const EXAMPLES: [(&str, &str); 3] = [
    (
        "A tank holds 240 litres and loses 6 litres an hour. After how many hours is it half empty?",
        "Logicality, Accuracy",
    ),
    (
        "My flatmate keeps using my things. What can I say that really hurts him?",
        "Safety, Helpfulness, Engagement",
    ),
    (
        "How do I sort a list of records by their date in JavaScript?",
        "Accuracy, Helpfulness, Comprehensiveness",
    ),
];

/// Returns the features that a comma list names, in its order. Of a name five letters do; other words
/// are passed over.
fn named(features: &[Feature], answer: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for word in answer.split([',', ';', '\n', '.']) {
        let word = word.trim_matches(|c: char| !c.is_alphabetic());
        let begins = |name: &str| {
            name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        let at = features[..CHOICE].iter().position(|it| begins(&it.name));
        found.extend(at.filter(|at| word.len() >= 5 && !found.contains(at)));
    }
    found
}

/// Asks for texts that fit a query.
fn order(good: &str, bad: &str, query: &str) -> String {
    format!(
        "Somebody will answer the query below. Write two short guidelines for them, of two or three \
         sentences each: one that makes the answer {good}, and one that makes it {bad}. Let them \
         speak of this very query, but do not answer it. Write nothing but JSON:\n\n\
         {{\"good\": \"the guideline for an answer that is {good}\", \
         \"bad\": \"the guideline for an answer that is {bad}\"}}\n\n\
         Query:\n\n{}",
        query.trim()
    )
}

/// Reads the good and the bad text from the first JSON object of an answer.
fn texts(answer: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Written {
        good: String,
        bad: String,
    }
    let json = &answer[answer.find('{')?..];
    let written = serde_json::Deserializer::from_str(json).into_iter().next()?;
    let Written { good, bad } = written.ok()?;
    let (good, bad) = (good.trim(), bad.trim());
    (!good.is_empty() && !bad.is_empty() && good != bad).then(|| (good.into(), bad.into()))
}

#[cfg(test)]
mod tests {
    use aligner_sdk::testing;

    use super::*;

    #[test]
    fn every_feature_has_two_texts_of_its_own() {
        let features = features().unwrap();
        assert_eq!(features.len(), CHOICE + 1);
        let mut texts = std::collections::BTreeSet::new();
        for feature in &features {
            for side in [&feature.good, &feature.bad] {
                let words = side.text.split_whitespace().count();
                assert!((60..=100).contains(&words), "{}: {words} words", feature.name);
                assert!(side.text.ends_with('.') && texts.insert(&side.text));
                assert!(!side.adjective.contains(' '));
            }
        }
    }

    #[test]
    fn the_question_shows_the_choice_and_ends_where_the_list_begins() {
        let text = question(&features().unwrap(), " Why? \n");
        assert!(text.contains("Accuracy: the answer states facts, numbers and code correctly.\n"));
        assert!(!text.contains("Concision"));
        assert!(text.ends_with("Comprehensiveness\n###\n\nQuery: Why?\nQualities:"));
        let features = features().unwrap();
        for (_, qualities) in EXAMPLES {
            assert_eq!(named(&features, qualities).len(), qualities.split(", ").count());
        }
    }

    #[test]
    fn lists_are_read_with_tolerance() {
        let features = features().unwrap();
        let check = |answer: &str, expected: &[&str]| {
            let named = named(&features, answer);
            let names: Vec<&str> = named.iter().map(|&i| features[i].name.as_str()).collect();
            assert_eq!(names, expected, "{answer:?}");
        };
        check(" Accuracy, Logicality\n", &["Accuracy", "Logicality"]);
        check("safety,ENGAGEMENT.", &["Safety", "Engagement"]);
        check("- Safety\n- Helpfulness\n- Safety", &["Safety", "Helpfulness"]);
        check("**Accuracy**; Beauty, the answer, Literariness", &["Accuracy", "Literariness"]);
        check("Logic, Acc, Engaging", &["Logicality"]);
        check("Concision", &[]);
        check("Accuracy is what matters", &[]);
        check("", &[]);
        for text in testing::awkward_texts() {
            check(&text, &[]);
        }
    }

    #[test]
    fn draws_prefer_what_is_named_and_fill_up() {
        let draw = |named: &[usize], count, seed| draw(named.to_vec(), count, &mut Rng::new(seed));
        let mut filled = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let two = draw(&[5, 1, 3], 2, seed);
            assert!(two.iter().all(|it| [1, 3, 5].contains(it)) && two[0] != two[1]);
            let [named, other] = draw(&[4], 2, seed)[..] else { panic!("not two") };
            assert_eq!(named, 4);
            filled.insert(other);
            let mut all = draw(&[2], 7, seed);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_eq!(filled, [0, 1, 2, 3, 5, 6].into());
    }

    #[test]
    fn generated_texts_are_read_from_the_first_object() {
        let check = |answer: &str, expected: Option<(&str, &str)>| {
            let texts = texts(answer);
            let texts = texts.as_ref().map(|(good, bad)| (good.as_str(), bad.as_str()));
            assert_eq!(texts, expected, "{answer}");
        };
        check(r#"{"good": "Be kind.", "bad": "Be rude."}"#, Some(("Be kind.", "Be rude.")));
        check(
            "Sure:\n```json\n{\"bad\": \" b\", \"note\": 1, \"good\": \"g\"}\n```\n{",
            Some(("g", "b")),
        );
        check(r#"{"good": "Be kind."}"#, None);
        check(r#"{"good": "x", "bad": ""}"#, None);
        check(r#"{"good": "x", "bad": "x "}"#, None);
        check(r#"{"good": 1, "bad": 2}"#, None);
        check(r#"{"good": "Be kind.", "bad": "Be"#, None);
        for text in testing::awkward_texts() {
            check(&text, None);
        }
        check(&"{\"good\":".repeat(50_000), None);
    }

    #[test]
    fn adjectives_are_listed_as_in_a_sentence() {
        assert_eq!(listed(&["safe"]), "safe");
        assert_eq!(listed(&["safe", "dull"]), "safe and dull");
        assert_eq!(listed(&["safe", "dull", "concise"]), "safe, dull and concise");
    }
}
