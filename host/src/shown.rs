//! Text from elsewhere, made safe to show: names and words of plugins, of files, of servers.

/// Returns whether a character cannot be seen where it stands, or moves what can be: control characters, what
/// ends a line, what turns the direction of text round, and blanks without a width. Joiners are not among them,
/// which scripts and emoji are written with.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
                | '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{2028}' | '\u{2029}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns the text with U+FFFD in the place of every hidden character.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// Returns the text on one line of at most `max_bytes`, and `…` where it has more: blanks in a row, line breaks
/// and hidden characters become one blank.
pub fn one_line(text: &str, max_bytes: usize) -> String {
    let mut out = String::new();
    let mut gap = false;
    for c in text.chars() {
        if is_hidden(c) || c == ' ' {
            gap = !out.is_empty();
            continue;
        }
        if out.len() + c.len_utf8() + usize::from(gap) > max_bytes {
            out.push('…');
            return out;
        }
        if std::mem::take(&mut gap) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// Returns an error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(&format!(": {said}"));
        }
        cause = error.source();
    }
    text
}

/// Returns an argument as a shell reads it: quoted where it has to be. What is hidden becomes an escape, which
/// `bash`, `zsh` and `ksh` know.
pub fn for_a_shell(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-@%+=:,./".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    if !argument.contains(is_hidden) {
        return format!("'{}'", argument.replace('\'', r"'\''"));
    }
    let escaped = argument.chars().map(|c| match c {
        '\'' | '\\' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        c if is_hidden(c) => format!("\\U{:08x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("$'{}'", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_an_argument_as_it_was() {
        let check = |argument: &str, expected: &str| assert_eq!(for_a_shell(argument), expected);
        check("a/b-1.aligner", "a/b-1.aligner");
        check("x y.aligner", "'x y.aligner'");
        check("", "''");
        check("it's $HOME", r"'it'\''s $HOME'");
        check("a\nb'\\", r"$'a\nb\'\\'");
        check("a\u{202e}b", r"$'a\U0000202eb'");
        for argument in ["x y", "it's `id` $HOME", "a\nb'\\\u{1b}[2J\u{202e}ä", "日本 語"] {
            let script = format!("printf %s {}", for_a_shell(argument));
            let Ok(said) = std::process::Command::new("bash")
                .arg("-c")
                .arg(script)
                .env("LC_ALL", "C.UTF-8")
                .output()
            else {
                return;
            };
            assert_eq!(String::from_utf8(said.stdout).unwrap(), argument);
        }
    }

    #[test]
    fn lines_are_one_and_not_long() {
        let check =
            |text: &str, max, expected: &str| assert_eq!(one_line(text, max), expected, "{text:?}");
        check("plain", 100, "plain");
        check(" a\nb\r\n\tc ", 100, "a b c");
        check("\x1b[31mred\x07", 100, "[31mred");
        check("a\u{202e}b\u{2066}c\u{2028}d", 100, "a b c d");
        check("äöü", 4, "äö…");
        check("", 0, "");
    }

    #[test]
    fn what_cannot_be_seen_is_replaced_and_what_is_written_stays() {
        for hidden in [
            "\n",
            "\t",
            "\u{1b}",
            "\u{9b}",
            "\u{202e}",
            "\u{2067}",
            "\u{200b}",
            "\u{feff}",
            "\u{e0041}",
        ] {
            assert_eq!(printable(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
        }
        // A family, a Persian word, a combining mark, a wide blank.
        for text in ["👩\u{200d}👧", "می\u{200c}خواهم", "e\u{301}", "a\u{3000}b", "日本語"]
        {
            assert_eq!(printable(text), text);
        }
    }
}
