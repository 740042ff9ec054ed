//! The difference of two small texts in unified form, as `diff -u` prints it.

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Beyond so many cells the table of common lines is not made, and the middle counts as replaced.
const CELLS_MAX: usize = 4_000_000;

/// One line of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit<'a> {
    Keep(&'a str),
    Remove(&'a str),
    Add(&'a str),
}

/// The unified difference; empty where both are equal. The names stand in its first two lines.
pub fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    let edits = compare(&split(old), &split(new));
    let mut text = format!("--- {old_name}\n+++ {new_name}\n");
    for (start, end) in hunks(&edits) {
        text.push_str(&hunk(&edits, start, end));
    }
    text
}

/// Splits into lines that keep their end, so that a missing last newline is a difference.
fn split(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = (old.len() - head).min(new.len() - head);
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let mut edits: Vec<_> = old[..head].iter().map(|line| Edit::Keep(line)).collect();
    middle(&old[head..old.len() - tail], &new[head..new.len() - tail], &mut edits);
    edits.extend(old[old.len() - tail..].iter().map(|line| Edit::Keep(line)));
    edits
}

/// Compares what is left between the common ends, by the longest common subsequence of lines.
fn middle<'a>(old: &[&'a str], new: &[&'a str], edits: &mut Vec<Edit<'a>>) {
    let (mut i, mut j) = (0, 0);
    if old.len().saturating_mul(new.len()) <= CELLS_MAX {
        let common = table(old, new);
        while i < old.len() && j < new.len() {
            if old[i] == new[j] {
                edits.push(Edit::Keep(old[i]));
                i += 1;
                j += 1;
            } else if common[i + 1][j] >= common[i][j + 1] {
                edits.push(Edit::Remove(old[i]));
                i += 1;
            } else {
                edits.push(Edit::Add(new[j]));
                j += 1;
            }
        }
    }
    edits.extend(old[i..].iter().map(|line| Edit::Remove(line)));
    edits.extend(new[j..].iter().map(|line| Edit::Add(line)));
}

/// How many lines the rest of `old` from i and the rest of `new` from j have in common.
fn table(old: &[&str], new: &[&str]) -> Vec<Vec<u32>> {
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    common
}

/// The stretches of edits that hold changes, with their context; those that touch are one.
fn hunks(edits: &[Edit<'_>]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (index, _) in edits.iter().enumerate().filter(|(_, edit)| !matches!(edit, Edit::Keep(_))) {
        let (start, end) = (index.saturating_sub(CONTEXT), (index + 1 + CONTEXT).min(edits.len()));
        match found.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => found.push((start, end)),
        }
    }
    found
}

fn hunk(edits: &[Edit<'_>], start: usize, end: usize) -> String {
    let count = |edits: &[Edit<'_>], old: bool| {
        let counts =
            |edit: &&Edit<'_>| if old { !matches!(edit, Edit::Add(_)) } else { !matches!(edit, Edit::Remove(_)) };
        edits.iter().filter(counts).count()
    };
    let range = |old: bool| {
        let (before, length) = (count(&edits[..start], old), count(&edits[start..end], old));
        // An empty range names the line before it.
        format!("{},{length}", if length == 0 { before } else { before + 1 })
    };
    let mut text = format!("@@ -{} +{} @@\n", range(true), range(false));
    for edit in &edits[start..end] {
        let (mark, line) = match edit {
            Edit::Keep(line) => (' ', line),
            Edit::Remove(line) => ('-', line),
            Edit::Add(line) => ('+', line),
        };
        text.push(mark);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(edits: &[Edit<'_>]) -> (String, String) {
        let (mut old, mut new) = (String::new(), String::new());
        for edit in edits {
            match edit {
                Edit::Keep(line) => {
                    old.push_str(line);
                    new.push_str(line);
                }
                Edit::Remove(line) => old.push_str(line),
                Edit::Add(line) => new.push_str(line),
            }
        }
        (old, new)
    }

    proptest! {
        #[test]
        fn the_edits_hold_both_texts(old in "([abc]{0,2}\n){0,12}[ab]?", new in "([abc]{0,2}\n){0,12}[ab]?") {
            let edits = compare(&split(&old), &split(&new));
            prop_assert_eq!(both(&edits), (old, new));
        }
    }

    #[test]
    fn a_changed_line_is_shown_with_its_context() {
        let old: String = (1..=9).map(|n| format!("{n}\n")).collect();
        let new = old.replace("5\n", "five\n");
        let expected = "--- old\n+++ new\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        assert_eq!(unified(&old, &new, "old", "new"), expected);
    }

    #[test]
    fn far_changes_are_two_hunks_and_equal_texts_none() {
        let old: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let new = old.replacen("1\n", "one\n", 1).replace("20\n", "twenty\n");
        assert_eq!(unified(&old, &new, "a", "b").matches("@@ -").count(), 2);
        assert_eq!(unified(&old, &old, "a", "b"), "");
    }

    #[test]
    fn a_missing_newline_and_a_new_file_are_told() {
        let text = unified("x\n", "x", "a", "b");
        assert!(text.ends_with("-x\n+x\n\\ No newline at end of file\n"), "{text}");
        assert!(unified("", "x\n", "a", "b").contains("@@ -0,0 +1,1 @@"));
    }
}
