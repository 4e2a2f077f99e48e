//! A day of the calendar, as a user writes it and as a chat template prints it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A day from 0001-01-01 to 9999-12-31; written as `2026-11-22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: u32,
    /// From 1.
    month: u32,
    /// From 1.
    day: u32,
}

/// Why a text is no [`Date`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a day such as \"2026-11-22\"")]
pub struct NoDate;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// From the day that `weekday` calls 0.
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// Prints midnight of the day as Python's `strftime` does in the C locale; `Err` holds a
    /// directive that is not known here.
    pub fn format(self, pattern: &str) -> Result<String, String> {
        let Date { year, month, day } = self;
        let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[self.weekday()]);
        let mut out = String::new();
        let mut letters = pattern.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let mut directive = letters.next();
            let padded = directive != Some('-');
            if !padded {
                directive = letters.next();
            }
            let number = |value: u32, width: usize| match padded {
                true => format!("{value:0width$}"),
                false => value.to_string(),
            };
            out.push_str(&match directive {
                Some('Y') => year.to_string(),
                Some('y') => number(year % 100, 2),
                Some('m') => number(month, 2),
                Some('d') => number(day, 2),
                Some('j') => number(self.day_of_year(), 3),
                Some('B') => month_name.to_owned(),
                Some('b' | 'h') => month_name[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('p') => "AM".to_owned(),
                Some('F') => format!("{year}-{month:02}-{day:02}"),
                Some('D') => format!("{month:02}/{day:02}/{:02}", year % 100),
                Some('T') => "00:00:00".to_owned(),
                Some('%') => "%".to_owned(),
                other => return Err(format!("%{}", other.map_or(String::new(), String::from))),
            });
        }
        Ok(out)
    }

    /// Returns the day of the week, 0 for Sunday (Sakamoto's method).
    fn weekday(self) -> usize {
        const SHIFTS: [u32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = self.year - u32::from(self.month < 3);
        let shift = SHIFTS[self.month as usize - 1];
        ((year + year / 4 - year / 100 + year / 400 + shift + self.day) % 7) as usize
    }

    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| days(self.year, month)).sum::<u32>() + self.day
    }
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for Date {
    type Err = NoDate;

    fn from_str(text: &str) -> Result<Date, NoDate> {
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else { return Err(NoDate) };
        let number = |text: &str, width: usize| match text.bytes().all(|b| b.is_ascii_digit()) {
            true if text.len() == width => text.parse::<u32>().map_err(|_| NoDate),
            _ => Err(NoDate),
        };
        let date = Date { year: number(year, 4)?, month: number(month, 2)?, day: number(day, 2)? };
        let fits = date.year > 0
            && (1..=12).contains(&date.month)
            && (1..=days(date.year, date.month)).contains(&date.day);
        fits.then_some(date).ok_or(NoDate)
    }
}

impl TryFrom<String> for Date {
    type Error = NoDate;

    fn try_from(text: String) -> Result<Date, NoDate> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> String {
        date.to_string()
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_prints_as_in_python() {
        let check = |date: &str, pattern: &str, expected: &str| {
            let found = date.parse::<Date>().unwrap().format(pattern);
            assert_eq!(found, Ok(expected.to_owned()), "{date} {pattern}");
        };
        check("2026-03-05", "%d %b %Y", "05 Mar 2026");
        check("2026-11-22", "%B %d, %Y", "November 22, 2026");
        check("2026-11-22", "%A %a %j %F %y %-d/%-m", "Sunday Sun 326 2026-11-22 26 22/11");
        check("2024-02-29", "%A, %H:%M:%S %p 100%%", "Thursday, 00:00:00 AM 100%");
        check("2000-01-01", "%a", "Sat");
        assert_eq!("2026-03-05".parse::<Date>().unwrap().format("%Q"), Err("%Q".into()));
        assert_eq!("2026-03-05".parse::<Date>().unwrap().format("%"), Err("%".into()));
    }

    #[test]
    fn what_is_no_date() {
        for text in
            ["", "today", "2026-13-01", "2026-02-29", "2026-2-3", "0000-01-01", "+026-01-01"]
        {
            assert_eq!(text.parse::<Date>(), Err(NoDate), "{text}");
        }
        let date: Date = "0001-12-31".parse().unwrap();
        assert_eq!(date.to_string(), "0001-12-31");
    }
}
