//! Mutation of inputs.

/// Size limit of an input, in octets.
const LENGTH_MAX: usize = 16 << 10;

/// Boundary values of lengths, prefixes, ports and signs.
const NUMBERS: [u64; 14] = [
    0,
    1,
    3,
    4,
    15,
    16,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Valid and invalid tokens of JSON and of addresses.
const TEXTS: [&str; 22] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.5",
    "\\u0000",
    "\\ud800",
    "\u{e9}",
    "\"",
    ",",
    ":",
    "::",
    "fe80::1%1",
    "/0",
    "/129",
    "255.255.255.255",
    "\n",
    "\0",
];

/// Mutates inputs at random, repeatable by seed (the generator is `SplitMix64`).
#[derive(Debug)]
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or zero if `end` is zero.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or_default()
    }

    fn choose<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// Makes a new input from one of the pool.
    pub(crate) fn mutate(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.choose(pool).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.step(&mut input, pool);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn step(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(10) {
            0 => {
                let bit = 1 << self.below(8);
                if let Some(octet) = input.get_mut(at) {
                    *octet ^= bit;
                }
            }
            1 => {
                let [octet, ..] = self.next().to_le_bytes();
                input.insert(at, octet);
            }
            2 => {
                let piece = self.piece(input);
                input.drain(piece);
            }
            3 => self.write_number(input, at),
            4 => {
                let text = self.choose(&TEXTS).copied().unwrap_or_default();
                input.splice(at..at, text.bytes());
            }
            5 => self.replace_word(input, pool),
            6 => {
                let piece = self.piece(input);
                let copy = input.get(piece).unwrap_or_default().to_vec();
                input.splice(at..at, copy);
            }
            7 => {
                let other = self.choose(pool).cloned().unwrap_or_default();
                let from = self.piece(&other);
                let onto = self.piece(input);
                input.splice(onto, other.get(from).unwrap_or_default().iter().copied());
            }
            8 => {
                // Deeper nesting than a parser may recurse, or a longer field than any may be.
                let octet = self.choose(b"[{\"a9 \0\xff").copied().unwrap_or_default();
                let count = 1 << self.below(13);
                input.splice(at..at, std::iter::repeat_n(octet, count));
            }
            _ => input.truncate(at),
        }
    }

    /// A random range of an input.
    fn piece(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(input.len() + 1);
        let longest = if self.below(2) == 0 { 8 } else { input.len() };
        start..(start + self.below(longest + 1)).min(input.len())
    }

    /// Overwrites one to eight octets with a number.
    fn write_number(&mut self, input: &mut [u8], at: usize) {
        let number = self.choose(&NUMBERS).copied().unwrap_or_default();
        let size = 1 << self.below(4);
        let at = if self.below(2) == 0 { at & !3 } else { at };
        let (low, high) = (number.to_le_bytes(), number.to_be_bytes());
        let octets = if self.below(2) == 0 { low.get(..size) } else { high.get(8 - size..) };
        if let (Some(field), Some(octets)) = (input.get_mut(at..at + size), octets) {
            field.copy_from_slice(octets);
        }
    }

    /// Replaces a word by another, from any input of the pool or from the lists.
    fn replace_word(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let all = words(input);
        let Some(place) = self.choose(&all).cloned() else { return };
        let replacement = match self.below(3) {
            0 => self.choose(&NUMBERS).copied().unwrap_or_default().to_string().into_bytes(),
            1 => self.choose(&TEXTS).copied().unwrap_or_default().into(),
            _ => {
                let other = self.choose(pool).cloned().unwrap_or_default();
                let from = self.choose(&words(&other)).cloned();
                from.and_then(|from| other.get(from)).unwrap_or_default().to_vec()
            }
        };
        input.splice(place, replacement);
    }
}

fn is_of_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'.'
}

/// Quoted strings, with their quotes, and the words and numbers outside of them.
fn words(input: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&octet) = input.get(at) {
        let rest = input.get(at + 1..).unwrap_or_default();
        let end = if octet == b'"' {
            rest.iter().position(|octet| *octet == b'"').map_or(input.len(), |end| at + end + 2)
        } else if is_of_word(octet) {
            rest.iter()
                .position(|&octet| !is_of_word(octet))
                .map_or(input.len(), |end| at + end + 1)
        } else {
            at += 1;
            continue;
        };
        words.push(at..end);
        at = end;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_strings_and_numbers() {
        let input = br#"{"a b":-12,"c":[true]}"#;
        let found: Vec<_> = words(input).into_iter().map(|word| &input[word]).collect();
        assert_eq!(found, [&b"\"a b\""[..], b"-12", b"\"c\"", b"true"]);
    }

    #[test]
    fn inputs_stay_within_the_size_limit() {
        let mut mutator = Mutator::new(5);
        let mut pool = vec![Vec::new(), vec![b'x'; LENGTH_MAX]];
        for _ in 0..5000 {
            let input = mutator.mutate(&pool);
            assert!(input.len() <= LENGTH_MAX);
            pool.push(input);
            pool.truncate(64);
        }
    }
}
