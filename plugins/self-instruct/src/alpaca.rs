//! Tasks with an instruction and an input each, in blocks under `###`, as Alpaca asks for them.

use crate::Task;

/// Stands for an input where there is none.
const NO_INPUT: &str = "<noinput>";

/// Writes a request for a list of `tasks` tasks that has begun with the ones shown. It ends where
/// the instruction of the next one begins.
pub(crate) fn prompt(tasks: usize, shown: &[Task]) -> String {
    let mut text = format!(
        "Write a list of {tasks} tasks for an assistant that reads and writes text. What it makes \
         of them will be looked at.\n\
         \n\
         The list keeps these rules:\n\
         1. Each task begins with another verb, as far as that goes.\n\
         2. Some tasks are questions and some are requests, and they are worded in many ways.\n\
         3. The tasks are of many kinds: explaining, sorting, rewriting, calculating, planning, \
         inventing, advising and more.\n\
         4. Words are enough for each task. Nothing has to be seen, heard, drawn, bought, sent or \
         kept in mind for another day.\n\
         5. Everything is in English.\n\
         6. An instruction has one sentence or two.\n\
         7. What an instruction works on, such as a text, a list or some numbers, is its input: a \
         real one of 100 words at most, and never a blank to be filled in.\n\
         8. An instruction that works on nothing has the input {NO_INPUT}.\n\
         9. A good answer has fewer than 100 words.\n\
         \n\
         List of {tasks} tasks:\n"
    );
    for (number, task) in (1..).zip(shown) {
        let input = if task.input.is_empty() { NO_INPUT } else { &task.input };
        text.push_str(&format!(
            "###\n{} {}\n{number}. Input:\n{input}\n",
            label(number),
            task.instruction
        ));
    }
    text.push_str("###\n");
    text.push_str(&label(shown.len() + 1));
    text
}

/// Reads the tasks from number `first` on, whose label the prompt has given. The last block is
/// taken to be cut off, whatever ended it.
pub(crate) fn read(completion: &str, first: usize) -> Vec<Task> {
    let label = label(first);
    let start = completion.trim_start_matches(|c: char| c == '#' || c.is_whitespace());
    let text = match start.starts_with(&label) {
        // In a conversation the label may be said again.
        true => start.to_owned(),
        false => format!("{label}{completion}"),
    };
    let mut blocks: Vec<&str> = text.split("###").collect();
    blocks.pop();
    blocks.into_iter().zip(first..).filter_map(|(block, number)| task(block, number)).collect()
}

fn label(number: usize) -> String {
    format!("{number}. Instruction:")
}

/// Reads a block that holds an instruction and then an input, both under their labels with the
/// number expected, and no label more.
fn task(block: &str, number: usize) -> Option<Task> {
    let mark = format!("{number}.");
    // Of each label: whether it is the instruction's, where it begins and where it ends.
    let label = |(at, _): (usize, &str)| {
        let rest = block[at + mark.len()..].trim_start();
        let after = rest.strip_prefix("Instruction:").map(|after| (true, after));
        let (instruction, after) =
            after.or_else(|| rest.strip_prefix("Input:").map(|after| (false, after)))?;
        let apart = !block[..at].ends_with(|c: char| c.is_ascii_digit());
        apart.then_some((instruction, at, block.len() - after.len()))
    };
    let labels: Vec<_> = block.match_indices(&mark).filter_map(label).collect();
    let [(true, _, from), (false, to, input)] = labels[..] else { return None };
    let input = block[input..].trim();
    let input = if input.eq_ignore_ascii_case(NO_INPUT) { "" } else { input };
    Task::new(&block[from..to], input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(completion: &str, first: usize) -> Vec<(String, String)> {
        read(completion, first).into_iter().map(|task| (task.instruction, task.input)).collect()
    }

    fn check(completion: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(a, b)| (String::from(*a), String::from(*b))).collect();
        assert_eq!(tasks(completion, 6), expected, "{completion:?}");
    }

    #[test]
    fn the_prompt_ends_where_the_next_instruction_begins() {
        let shown = [Task::new("Why?", "").unwrap(), Task::new("Sum up.", "One.\n\nTwo.").unwrap()];
        let text = prompt(20, &shown);
        assert!(text.starts_with("Write a list of 20 tasks"));
        let end = "\nList of 20 tasks:\n###\n1. Instruction: Why?\n1. Input:\n<noinput>\n###\n\
                   2. Instruction: Sum up.\n2. Input:\nOne.\n\nTwo.\n###\n3. Instruction:";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn what_is_shown_is_read_back() {
        let shown: Vec<_> =
            [("Why?", ""), ("Sum up.", "One.\n\nTwo."), ("Name 3. Input: none", "x")]
                .iter()
                .map(|(instruction, input)| Task::new(instruction, input).unwrap())
                .collect();
        let text = prompt(20, &shown);
        let list = text.split_once("###\n1. Instruction:").unwrap().1;
        let read: Vec<_> = read(list, 1);
        // The third has one label too many.
        assert_eq!(read, shown[..2]);
    }

    #[test]
    fn the_last_block_is_always_dropped() {
        check(
            " Why?\n6. Input:\n<noinput>\n###\n7. Instruction: Who?\n7. Input:\n<noinput>",
            &[("Why?", "")],
        );
        check(" Why?\n6. Input:\n<NoInput>\n###", &[("Why?", "")]);
        check(" Why?\n6. Input:\n<noinput>\n", &[]);
        check("", &[]);
    }

    #[test]
    fn running_numbers_and_both_fields_are_required() {
        check(
            " Why?\n###\n7. Instruction: Who\nis it?\n7. Input:\na\n b\n###",
            &[("Who is it?", "a\n b")],
        );
        check(" Why?\n7. Input:\nx\n###", &[]);
        check(" Why?\n16. Input:\nx\n###", &[]);
        check(" Why?\n6. Input: x\n6. Input: y\n###", &[]);
        check(" \n6. Input: x\n###", &[]);
        check(" a\n6. Input: b\n###\n8. Instruction: c\n8. Input: d\n###", &[("a", "b")]);
        check(" a\n6.Input: b\n6. Output: c\n###", &[("a", "b\n6. Output: c")]);
    }

    #[test]
    fn a_label_that_is_said_again_counts_once() {
        check("6. Instruction: a\n6. Input: b\n###", &[("a", "b")]);
        check("###\n6. Instruction: a\n6. Input: b\n###", &[("a", "b")]);
    }
}
