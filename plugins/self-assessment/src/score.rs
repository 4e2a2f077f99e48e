//! Reads a score out of what a model wrote.

/// Returns a score of 1 to 10, or nothing where there is none to be read.
///
/// White space and marks at the beginning do not count; then a decimal number stands there, or else
/// one stands before the first `||`. It is rounded, half to even.
pub(crate) fn score(text: &str) -> Option<f64> {
    let start = text.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    let number = leading(start)
        .or_else(|| text.split_once("||").and_then(|(before, _)| trailing(before)))?
        .parse::<f64>()
        .ok()?
        .round_ties_even();
    (1.0..=10.0).contains(&number).then_some(number)
}

/// Returns the decimal number that a text begins with.
fn leading(text: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let fraction = text[whole..].strip_prefix('.').map_or(0, digits);
    let end = if fraction > 0 { whole + 1 + fraction } else { whole };
    (whole > 0).then(|| &text[..end])
}

/// Returns the decimal number that a text ends with, marks and white space after it aside.
fn trailing(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(|c: char| !c.is_alphanumeric());
    let start = text
        .rfind(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    leading(text[start..].trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_as_in_the_published_program() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(score(text), expected, "{text}");
        check("9||good", Some(9.0));
        check("<9>||x", Some(9.0));
        check(" 8.5||a", Some(8.0));
        check("8.49", Some(8.0));
        check("7.5", Some(8.0));
        check("9.5||z", Some(10.0));
        check("10/10", Some(10.0));
        check("[10]||ok", Some(10.0));
        check("-5||x", Some(5.0));
        check("\n\n'8'||", Some(8.0));
        check("Score: 9", None);
        check("nine||", None);
        check("100||x", None);
        check("0||bad", None);
    }

    #[test]
    fn a_number_may_stand_before_the_bars() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(score(text), expected, "{text}");
        check("Score: 9||good", Some(9.0));
        check("The score is <7.5> ||good", Some(8.0));
        check("I give é9||good", Some(9.0));
        check("between 3 and||9", None);
        check("v1.2.3||x", Some(1.0));
        check("Score ...||x", None);
        check("8.||x", Some(8.0));
        check("0.4", None);
        check("10.4", Some(10.0));
        check("10.6", None);
        check(&"9".repeat(100_000), None);
    }

    #[test]
    fn awkward_texts_have_no_score() {
        for text in aligner_sdk::testing::awkward_texts() {
            assert_eq!(score(&text), None, "{}", &text.chars().take(80).collect::<String>());
        }
    }
}
