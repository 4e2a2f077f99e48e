//! Tasks of an instruction alone, one a line: Self-Instruct's list, and a shorter request for one.

use aligner_sdk::Finish;

use crate::Task;

/// Writes Self-Instruct's request: a line of what this is, then the list. It ends with the next
/// number.
pub(crate) fn classic(shown: &[Task]) -> String {
    let mut text = String::from("Tasks of many kinds for an assistant that reads and writes:\n\n");
    text.push_str(&numbered(shown));
    text.push_str(&format!("{}.", shown.len() + 1));
    text
}

/// Writes a request that a small model understands: what people asked, then how many more. Raw text
/// ends with the next number.
pub(crate) fn brief(tasks: usize, shown: &[Task], raw: bool) -> String {
    let next = shown.len() + 1;
    let mut text = String::from("Here is what people asked an assistant:\n\n");
    text.push_str(&numbered(shown));
    text.push_str(&format!(
        "\nWrite {} more like these, numbered {next} to {tasks}, one a line. Each asks for \
         something else.",
        tasks - shown.len()
    ));
    if raw {
        text.push_str(&format!("\n\n{next}."));
    }
    text
}

fn numbered(shown: &[Task]) -> String {
    (1..).zip(shown).map(|(number, task)| format!("{number}. {}\n", task.instruction)).collect()
}

/// Reads the tasks from number `first` on.
///
/// - `begun`: the prompt has given the first number. Otherwise the list begins at the first line
///   with a number, `first` or 1.
/// - `finish`: the last task is cut off where it is `length`, and does not count.
///
/// A line without a number goes on with the task before it; a blank line ends a task; a number out
/// of order ends the list.
pub(crate) fn read(completion: &str, first: usize, begun: bool, finish: Finish) -> Vec<Task> {
    let again = number(completion.trim_start()).is_some_and(|(found, _)| found == first);
    let text = match begun && !again {
        true => format!("{first}. {completion}"),
        false => completion.to_owned(),
    };
    let mut expected = None;
    let mut tasks: Vec<String> = Vec::new();
    // Whether the next line may go on with the last task.
    let mut open = false;
    for line in text.lines() {
        match (number(line.trim_start()), expected) {
            (Some((found, rest)), Some(next)) if found == next => {
                tasks.push(rest.to_owned());
                (expected, open) = (Some(next + 1), true);
            }
            (Some((found, rest)), None) if found == first || !begun && found == 1 => {
                tasks.push(rest.to_owned());
                (expected, open) = (Some(found + 1), true);
            }
            (Some(_), Some(_)) => break,
            _ if line.trim().is_empty() => open = false,
            _ => {
                if let Some(task) = tasks.last_mut().filter(|_| open) {
                    task.push(' ');
                    task.push_str(line);
                }
            }
        }
    }
    if finish == Finish::Length {
        tasks.pop();
    }
    let unquoted = |task: &String| {
        let marks = |c: char| c.is_whitespace() || matches!(c, '*' | '"' | '“' | '”');
        Task::new(task.trim_matches(marks), "")
    };
    tasks.iter().filter_map(unquoted).collect()
}

/// Takes the number off the beginning of a line such as `7. Why?`.
fn number(line: &str) -> Option<(usize, &str)> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = line[digits..].strip_prefix(['.', ')'])?;
    // `2.5 litres` begins with no number of a list.
    let apart = rest.is_empty() || rest.starts_with(char::is_whitespace);
    apart.then(|| Some((line[..digits].parse().ok()?, rest)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_as(begun: bool, finish: Finish, completion: &str, expected: &[&str]) {
        let tasks = read(completion, 6, begun, finish);
        let found: Vec<_> = tasks.iter().map(|task| task.instruction.as_str()).collect();
        assert_eq!(found, expected, "{completion:?}");
    }

    #[test]
    fn requests_show_a_numbered_list() {
        let shown = [Task::new("Why?", "").unwrap(), Task::new("Who?", "").unwrap()];
        let text = classic(&shown);
        assert!(text.ends_with(":\n\n1. Why?\n2. Who?\n3."), "{text}");
        let raw = brief(9, &shown, true);
        assert!(raw.contains("\n2. Who?\n\nWrite 7 more like these, numbered 3 to 9,"), "{raw}");
        assert_eq!(raw, brief(9, &shown, false) + "\n\n3.");
    }

    #[test]
    fn a_list_goes_on_from_the_number_given() {
        let check = |text: &str, expected: &[&str]| check_as(true, Finish::Stop, text, expected);
        check(" Why?\n7. Who\nis it?\n8) When?", &["Why?", "Who is it?", "When?"]);
        check(" Why?\n\nSo much.\n7. Who?", &["Why?", "Who?"]);
        check(" Why?\n9. Who?\n7. When?", &["Why?"]);
        check(" Why?\n1. because\n2. so", &["Why?"]);
        check(" Mix 2.5 litres\n2.5 more?\n7. \"Who?\"", &["Mix 2.5 litres 2.5 more?", "Who?"]);
        check("6. Why?\n7. Who?", &["Why?", "Who?"]);
        check("\n7. Who?", &["Who?"]);
        check("", &[]);
        check(" **Why?**\n7.\n8. Who?", &["Why?", "Who?"]);
    }

    #[test]
    fn a_list_in_a_conversation_may_begin_at_1() {
        let check = |text: &str, expected: &[&str]| check_as(false, Finish::Stop, text, expected);
        check("Sure! Here they are:\n\n6. Why?\n\n7. Who?", &["Why?", "Who?"]);
        check("1. Why?\n2. Who?\n\nI hope these help.", &["Why?", "Who?"]);
        check("3. Why?\n4. Who?", &[]);
        check("There are none.", &[]);
        check("99999999999999999999999. Why?", &[]);
    }

    #[test]
    fn a_task_that_was_cut_off_does_not_count() {
        check_as(true, Finish::Length, " Why?\n7. Who is", &["Why?"]);
        check_as(true, Finish::Length, " Why?\n7. Who?\n\nAnd so", &["Why?"]);
        check_as(false, Finish::Length, "", &[]);
    }
}
