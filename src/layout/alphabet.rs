//! Sets of bytes: which bytes a placeholder can render to. [`super::collide`] reasons with them.
//!
//! Every set here may be larger than what really occurs, never smaller.

use std::fmt;

/// A set of byte values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ByteSet([u128; 2]);

impl ByteSet {
    /// No byte.
    pub const EMPTY: Self = Self([0, 0]);
    /// Every byte.
    pub const ANY: Self = Self([u128::MAX, u128::MAX]);
    /// `0` to `9`.
    pub const DIGITS: Self = Self::of(b"0123456789");
    /// ASCII letters.
    pub const LETTERS: Self = Self::of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    /// What [`super::encode::encode_value`] writes: letters, digits, `.`, `_`, `-`, `%XX` and the `~` of a cut value.
    pub const ENCODED: Self = Self::DIGITS.or(Self::LETTERS).or(Self::of(b"._-%~"));

    /// The bytes of `bytes`.
    pub const fn of(bytes: &[u8]) -> Self {
        let mut set = [0u128; 2];
        let mut index = 0;
        while index < bytes.len() {
            set[(bytes[index] >> 7) as usize] |= 1u128 << (bytes[index] & 127);
            index += 1;
        }
        Self(set)
    }
    /// Bytes in either set.
    pub const fn or(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }
    /// Bytes of this set that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }
    /// Whether `byte` is in the set.
    pub const fn contains(self, byte: u8) -> bool {
        self.0[(byte >> 7) as usize] >> (byte & 127) & 1 == 1
    }
    /// Whether some byte is in both sets.
    pub const fn meets(self, other: Self) -> bool {
        self.0[0] & other.0[0] != 0 || self.0[1] & other.0[1] != 0
    }
}

impl fmt::Debug for ByteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = (0..=u8::MAX).filter(|byte| self.contains(*byte)).collect();
        write!(f, "[{}]", bytes.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_they_were_given() {
        let set = ByteSet::of(&[0, b'a', 127, 128, 255]);
        for byte in 0..=u8::MAX {
            assert_eq!(set.contains(byte), [0, b'a', 127, 128, 255].contains(&byte), "byte {byte}");
        }
        assert!(!ByteSet::DIGITS.meets(ByteSet::LETTERS));
        assert!(ByteSet::ENCODED.meets(ByteSet::LETTERS));
        assert!(!ByteSet::ENCODED.without(ByteSet::LETTERS).meets(ByteSet::LETTERS));
        for byte in *b"/+=: \\{}\"" {
            assert!(!ByteSet::ENCODED.contains(byte), "byte {byte}");
        }
    }
}
