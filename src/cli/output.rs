//! What people read: aligned tables, sizes, durations, times, a little colour. JSON is printed by each program itself.

use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};

use crate::error::{Class, Failure};

/// A progress bar on standard error; invisible where that is no terminal. `unit` is `bytes` or a plain word.
pub fn progress(total: u64, unit: &'static str, terminal: bool) -> indicatif::ProgressBar {
    if !terminal {
        return indicatif::ProgressBar::hidden();
    }
    let counts = if unit == "bytes" {
        "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}".to_owned()
    } else {
        format!("{{pos}}/{{len}} {unit} {{per_sec}}")
    };
    let template = format!("[{{bar:30}}] {counts} ETA {{eta}} {{wide_msg}}");
    let style = indicatif::ProgressStyle::with_template(&template).expect("because the template is fixed");
    indicatif::ProgressBar::new(total).with_style(style)
}

/// Prints a text to standard output. A reader that has gone away is no error: it has seen what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    without_broken_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Prints one line to standard output; what the program did is not undone by a line that nobody could be given.
pub fn line(text: fmt::Arguments<'_>) {
    if let Err(failure) = print(&format!("{text}\n")) {
        log::error!("{failure}");
    }
}

/// Takes a broken pipe for success and anything else for a failure.
pub fn without_broken_pipe(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Class::Storage, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A size in binary units: `512 B`, `16 MiB`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // Rounding must not show 1024.0 of a unit that has a larger one.
    while unit + 1 < UNITS.len() && tenths(bytes, unit) >= 10_240 {
        unit += 1;
    }
    let tenths = tenths(bytes, unit);
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[unit]),
        part => format!("{}.{part} {}", tenths / 10, UNITS[unit]),
    }
}

/// Bytes in tenths of a unit, rounded.
fn tenths(bytes: u64, unit: usize) -> u128 {
    let scale = 1u128 << (10 * unit);
    (u128::from(bytes) * 10 + scale / 2) / scale
}

/// A duration in its two largest units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 2 h`.
pub fn duration(duration: Duration) -> String {
    let tenths = (duration.as_millis() + 50) / 100;
    if tenths < 100 {
        return if tenths.is_multiple_of(10) {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        };
    }
    let seconds = (duration.as_millis() + 500) / 1000;
    let (large, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3_600 => ((60, "min"), (1, "s")),
        3_600..86_400 => ((3_600, "h"), (60, "min")),
        _ => ((86_400, "d"), (3_600, "h")),
    };
    match seconds % large.0 / small.0 {
        0 => format!("{} {}", seconds / large.0, large.1),
        rest => format!("{} {} {rest} {}", seconds / large.0, large.1, small.1),
    }
}

/// A time of this machine's clock with its offset: `2026-03-01 12:00:00+01:00`.
pub fn time(time: SystemTime) -> String {
    DateTime::<Local>::from(time).format("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// What a piece of text means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// All is well: green.
    Good,
    /// A person should look: yellow.
    Warning,
    /// Something is wrong: red.
    Bad,
    /// Less important: faint.
    Faint,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    /// True: escape sequences are written.
    pub coloured: bool,
}

impl Palette {
    /// Colours only on a terminal, and neither with `NO_COLOR` nor on a terminal that cannot.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let unable = std::env::var_os("TERM").is_none_or(|value| value.is_empty() || value == "dumb");
        Palette { coloured: !refused && !unable && io::stdout().is_terminal() }
    }

    /// Wraps a text in its colour.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_string(),
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
            Tone::Faint => 2,
        };
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// On which side a column's cells begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a meaning.
    pub fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Cell { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

/// A table with a line of titles and aligned columns, two blanks apart.
#[derive(Debug, Clone)]
pub struct Table {
    palette: Palette,
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(palette: Palette, columns: &[(&'static str, Align)]) -> Self {
        Table { palette, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    fn line(&self, widths: &[usize], cells: &[Cell]) -> String {
        let mut line = String::new();
        for (at, ((_, align), width)) in self.columns.iter().zip(widths).enumerate() {
            let (text, tone) = cells.get(at).map_or(("", Tone::Plain), |cell| (cell.text.as_str(), cell.tone));
            let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
            let painted = self.palette.paint(tone, text);
            let _ = match align {
                Align::Left => write!(line, "{painted}{blanks}  "),
                Align::Right => write!(line, "{blanks}{painted}  "),
            };
        }
        line.trim_end().to_string()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = |(title, _): &(&'static str, Align)| Cell::toned(Tone::Faint, *title);
        let titles: Vec<Cell> = self.columns.iter().map(title).collect();
        let all = || std::iter::once(&titles).chain(&self.rows);
        let width = |at: usize| all().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or_default()).collect();
        all().try_for_each(|row| writeln!(f, "{}", self.line(&widths, row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_one_decimal_at_most() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (16 << 20, "16 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_show_two_units() {
        let cases = [
            (0, "0 s"),
            (432, "0.4 s"),
            (9_960, "10 s"),
            (12_400, "12 s"),
            (59_700, "1 min"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
            (352_800_000, "4 d 2 h"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn times_carry_their_offset() {
        let text = time(SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_000_000));
        let read = DateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%:z").map(|time| time.timestamp());
        assert_eq!(read, Ok(1_772_000_000));
    }

    #[test]
    fn columns_are_aligned_whatever_the_colour() {
        let table = |coloured| {
            let mut table = Table::new(Palette { coloured }, &[("node", Align::Left), ("lag", Align::Right)]);
            table.row(["db1".into(), Cell::toned(Tone::Good, "0 B")]);
            table.row(["standby-ä".into(), Cell::toned(Tone::Bad, "16 MiB")]);
            table.row(["x".into()]);
            table.to_string()
        };
        assert_eq!(table(false), "node          lag\ndb1           0 B\nstandby-ä  16 MiB\nx\n");
        let mut plain = table(true);
        for code in ["\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m"] {
            assert!(plain.contains(code));
            plain = plain.replace(code, "");
        }
        // Painted cells leave blanks behind an empty last one.
        assert_eq!(plain.lines().map(str::trim_end).collect::<Vec<_>>(), table(false).lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        assert_eq!(without_broken_pipe(Err(io::ErrorKind::BrokenPipe.into())), Ok(()));
        let full = without_broken_pipe(Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(full.map_err(|failure| failure.class), Err(Class::Storage));
    }
}
