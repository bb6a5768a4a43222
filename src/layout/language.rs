//! Sets of object keys, and whether two of them share a key.
//!
//! A [`Language`] is a row of tokens, each one byte or any number of bytes out of a set. It always holds at least
//! every key that can occur, so *disjoint* here is disjoint in the bucket; the reverse may not hold.

use super::alphabet::ByteSet;

/// A set of byte strings.
#[derive(Clone, Debug, Default)]
pub(super) struct Language(Vec<Token>);

#[derive(Clone, Copy, Debug)]
enum Token {
    /// Exactly one byte of the set.
    One(ByteSet),
    /// Any number of bytes of the set, none included.
    Any(ByteSet),
}

impl Language {
    /// Goes on with exactly `text`.
    pub(super) fn text(&mut self, text: &str) {
        self.0.extend(text.bytes().map(|byte| Token::One(ByteSet::of(&[byte]))));
    }

    /// Goes on with `count` bytes of `set`.
    pub(super) fn exactly(&mut self, count: usize, set: ByteSet) {
        self.0.extend(std::iter::repeat_n(Token::One(set), count));
    }

    /// Goes on with one byte of `first` and any number of bytes of `rest`.
    pub(super) fn some(&mut self, first: ByteSet, rest: ByteSet) {
        self.0.extend([Token::One(first), Token::Any(rest)]);
    }

    /// Whether some byte string is in both sets.
    pub(super) fn meets(&self, other: &Self) -> bool {
        // The pairs of positions that one and the same text can reach.
        let columns = other.0.len() + 1;
        let mut seen = vec![false; (self.0.len() + 1) * columns];
        let mut todo = vec![(0, 0)];
        while let Some((here, there)) = todo.pop() {
            if std::mem::replace(&mut seen[here * columns + there], true) {
                continue;
            }
            let (ours, theirs) = (self.0.get(here), other.0.get(there));
            if let Some(Token::Any(_)) = ours {
                todo.push((here + 1, there));
            }
            if let Some(Token::Any(_)) = theirs {
                todo.push((here, there + 1));
            }
            match (ours, theirs) {
                (None, None) => return true,
                (Some(ours), Some(theirs)) if ours.set().meets(theirs.set()) => {
                    todo.push((here + ours.step(), there + theirs.step()));
                }
                _ => {}
            }
        }
        false
    }
}

impl Token {
    fn set(self) -> ByteSet {
        match self {
            Self::One(set) | Self::Any(set) => set,
        }
    }
    fn step(self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Any(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x` is itself, `#` a digit, `+` one or more digits, `@` one or more letters, digits or dashes.
    fn language(text: &str) -> Language {
        let word = ByteSet::DIGITS.or(ByteSet::LETTERS).or(ByteSet::of(b"-"));
        let mut language = Language::default();
        for c in text.chars() {
            match c {
                '#' => language.exactly(1, ByteSet::DIGITS),
                '+' => language.some(ByteSet::DIGITS, ByteSet::DIGITS),
                '@' => language.some(word, word),
                _ => language.text(&c.to_string()),
            }
        }
        language
    }

    #[test]
    fn common_strings_are_found() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "b", false),
            ("@", "a", true),
            ("@", "", false),
            ("@/", "a", false),
            ("@.json", "@.parquet", false),
            ("@-#", "x-@", true),
            ("#-", "@", true),
            ("##", "+", true),
            ("##", "#", false),
            ("+a", "@b", false),
            ("g+-@", "####-@", false),
            ("@/@/x", "@/x", false),
            ("@@@", "ab", false),
            ("@@@", "abc", true),
        ];
        for (ours, theirs, meets) in table {
            assert_eq!(language(ours).meets(&language(theirs)), meets, "{ours:?} and {theirs:?}");
            assert_eq!(language(theirs).meets(&language(ours)), meets, "{theirs:?} and {ours:?}");
        }
    }
}
