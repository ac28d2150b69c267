//! Points in time as `%START_TIME(...)%` shows them, in UTC.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A compiled time format: the common part of strftime, Envoy's `%3f` and Abseil's `%E3S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Year,
    ShortYear,
    Month,
    Day,
    DaySpaced,
    DayOfYear,
    Hour,
    Hour12,
    Minute,
    Second,
    AmPm,
    EpochSeconds,
    /// Digits of the second's fraction.
    Fraction(usize),
    MonthName,
    MonthShort,
    WeekdayName,
    WeekdayShort,
}

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
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl TimeFormat {
    /// Compiles; an empty format is Envoy's default, RFC 3339 with milliseconds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = if text.is_empty() {
            "%Y-%m-%dT%H:%M:%E3SZ"
        } else {
            text
        };
        let mut pieces = Vec::new();
        let mut chars = text.chars().peekable();
        let mut literal = String::new();
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let code = chars.next().ok_or("ends with a lone %")?;
            if code == '%' {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            match code {
                'E' => {
                    let digit = chars
                        .next()
                        .and_then(|c| c.to_digit(10))
                        .ok_or("%E needs a digit")?;
                    if chars.next() != Some('S') {
                        return Err("only %E#S is known".to_owned());
                    }
                    pieces.push(Piece::Second);
                    if digit > 0 {
                        pieces.push(Piece::Literal(".".to_owned()));
                        pieces.push(Piece::Fraction(digit.min(9) as usize));
                    }
                }
                '1'..='9' => {
                    if chars.next() != Some('f') {
                        return Err(format!("%{code} must be followed by f"));
                    }
                    pieces.push(Piece::Fraction(code.to_digit(10).unwrap_or(9) as usize));
                }
                _ => simple(code, &mut pieces)?,
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Appends the time in UTC.
    pub fn write(&self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        let date = Date::of(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        for piece in &self.0 {
            // Writing to a Vec cannot fail.
            let _ = match piece {
                Piece::Literal(text) => out.write_all(text.as_bytes()),
                Piece::Year => write!(out, "{}", date.year),
                Piece::ShortYear => write!(out, "{:02}", date.year % 100),
                Piece::Month => write!(out, "{:02}", date.month),
                Piece::Day => write!(out, "{:02}", date.day),
                Piece::DaySpaced => write!(out, "{:2}", date.day),
                Piece::DayOfYear => write!(out, "{:03}", date.day_of_year),
                Piece::Hour => write!(out, "{hour:02}"),
                Piece::Hour12 => write!(out, "{:02}", (hour + 11) % 12 + 1),
                Piece::Minute => write!(out, "{minute:02}"),
                Piece::Second => write!(out, "{second:02}"),
                Piece::AmPm => out.write_all(if hour < 12 { b"AM" } else { b"PM" }),
                Piece::EpochSeconds => write!(out, "{seconds}"),
                Piece::Fraction(digits) => {
                    let digits = (*digits).clamp(1, 9);
                    let value = nanos / 10_u32.pow(9 - digits as u32);
                    write!(out, "{value:0digits$}")
                }
                Piece::MonthName => out.write_all(month(&date).as_bytes()),
                Piece::MonthShort => out.write_all(month(&date).get(..3).unwrap_or("").as_bytes()),
                Piece::WeekdayName => out.write_all(weekday(&date).as_bytes()),
                Piece::WeekdayShort => {
                    out.write_all(weekday(&date).get(..3).unwrap_or("").as_bytes())
                }
            };
        }
    }
}

fn month(date: &Date) -> &'static str {
    MONTHS
        .get((date.month as usize).saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn weekday(date: &Date) -> &'static str {
    WEEKDAYS
        .get(date.weekday as usize)
        .copied()
        .unwrap_or_default()
}

fn simple(code: char, pieces: &mut Vec<Piece>) -> Result<(), String> {
    let literal = |text: &str| Piece::Literal(text.to_owned());
    let one = match code {
        'Y' => Piece::Year,
        'y' => Piece::ShortYear,
        'm' => Piece::Month,
        'd' => Piece::Day,
        'e' => Piece::DaySpaced,
        'j' => Piece::DayOfYear,
        'H' => Piece::Hour,
        'I' => Piece::Hour12,
        'M' => Piece::Minute,
        'S' => Piece::Second,
        'p' => Piece::AmPm,
        's' => Piece::EpochSeconds,
        'f' => Piece::Fraction(9),
        'B' => Piece::MonthName,
        'b' | 'h' => Piece::MonthShort,
        'A' => Piece::WeekdayName,
        'a' => Piece::WeekdayShort,
        'z' => literal("+0000"),
        'Z' => literal("UTC"),
        'n' => literal("\n"),
        't' => literal("\t"),
        'F' => {
            pieces.extend([
                Piece::Year,
                literal("-"),
                Piece::Month,
                literal("-"),
                Piece::Day,
            ]);
            return Ok(());
        }
        'T' => {
            pieces.extend([
                Piece::Hour,
                literal(":"),
                Piece::Minute,
                literal(":"),
                Piece::Second,
            ]);
            return Ok(());
        }
        _ => return Err(format!("%{code} is not supported in a time format")),
    };
    pieces.push(one);
    Ok(())
}

/// A day of the Gregorian calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: u64,
}

impl Date {
    /// From days since 1970-01-01 (a Thursday), by counting in eras of 400 years from March.
    fn of(days: u64) -> Self {
        let weekday = (days + 4) % 7;
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let in_era = shifted % 146_097;
        let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
        let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap =
            (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
        let day_of_year = if month > 2 {
            in_year + 60 + u64::from(leap)
        } else {
            in_year - 305
        };
        Self {
            year,
            month,
            day,
            day_of_year,
            weekday,
        }
    }
}
