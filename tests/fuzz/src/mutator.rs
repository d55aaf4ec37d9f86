//! Breaks texts that are right.

use std::ops::Range;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`; 0 if there is none.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % (limit as u64).max(1)).unwrap_or_default()
    }
}

/// What trips parsers: the syntax of JSON, numbers at the edges, strange spellings, bytes that are no text.
const TOKENS: [&[u8]; 61] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b",",
    b":",
    b"/",
    b".",
    b"*",
    b"%",
    b"@",
    b"#",
    b"?",
    b" ",
    b"\t",
    b"\r\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"null",
    b"true",
    b"-0",
    b"1e999999999",
    b"1E-999999999",
    b"9007199254740993",
    b"18446744073709551616",
    b"0.1",
    b"-1",
    b"00",
    b"\"\"",
    b"{}",
    b"[]",
    b"[{}]",
    b"{\"\":{}}",
    b"\"a\":",
    b"$or",
    b"anything-but",
    b"numeric",
    b"wildcard",
    b"exists",
    b"\xe2\x80\xae",
    b"\xcc\x81",
    b"\xef\xbc\x8f",
    b"\xe3\x80\x82",
    b"127.0.0.1",
    b"0x7f.1",
    b"2130706433",
    b"[::1]",
    b"[::ffff:7f00:1]",
    b"169.254.169.254",
    b"localhost",
    b"%00",
    b"xn--",
];
/// So often a piece is repeated, at most: deep nesting and long names.
const REPEATS: [usize; 6] = [2, 3, 17, 129, 1025, 40_000];
/// Few inputs are large: most of what there is to find is small.
const LARGE: usize = 300 * 1024;

#[derive(Debug)]
pub struct Mutator {
    random: Random,
    samples: &'static [&'static str],
    input: Vec<u8>,
}

impl Mutator {
    pub fn new(seed: u64, samples: &'static [&'static str]) -> Self {
        Self { random: Random(seed), samples, input: Vec::new() }
    }

    /// A sample with one to eight things done to it, mostly few.
    pub fn mutate(&mut self) -> &[u8] {
        let sample = self.samples[self.random.below(self.samples.len())];
        self.input.clear();
        self.input.extend_from_slice(sample.as_bytes());
        let most = self.random.below(8);
        for _ in 0..=self.random.below(most + 1) {
            self.step();
        }
        self.input.truncate(LARGE);
        &self.input
    }

    fn step(&mut self) {
        let (random, input) = (&mut self.random, &mut self.input);
        let at = random.below(input.len() + 1);
        let end = (at + random.below(24)).min(input.len());
        match random.below(14) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap_or_default(),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            4 => {
                let other = self.samples[random.below(self.samples.len())].as_bytes();
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(40)).min(other.len())];
                input.splice(at..end, piece.iter().copied());
            }
            // One in about four hundred of these is the longest.
            5 if random.below(8) == 0 => {
                let repeats = REPEATS[random.below(REPEATS.len()).min(random.below(REPEATS.len()))];
                let piece =
                    if at < end { input[at..end].to_vec() } else { TOKENS[random.below(TOKENS.len())].to_vec() };
                input.splice(at..at, piece.repeat(repeats));
            }
            6 => input.truncate(at),
            // A word in place of a word: what comes of it may still be right.
            7..=11 => {
                let word = word_at(input, at);
                let other = self.samples[random.below(self.samples.len())].as_bytes();
                let new = match random.below(2) {
                    0 => TOKENS[random.below(TOKENS.len())],
                    _ => &other[word_at(other, random.below(other.len()))],
                };
                input.splice(word, new.iter().copied());
            }
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                let end = if random.below(2) == 0 { at } else { end };
                input.splice(at..end, token.iter().copied());
            }
        }
    }
}

/// The bytes around a place, up to what separates words in JSON, paths and URLs.
fn word_at(text: &[u8], at: usize) -> Range<usize> {
    let is_separator = |byte: &u8| b"{}[]\",:/.\n ".contains(byte);
    let start = text[..at].iter().rposition(is_separator).map_or(0, |found| found + 1);
    let end = text[at..].iter().position(is_separator).map_or(text.len(), |found| at + found);
    start..end.max(start)
}
