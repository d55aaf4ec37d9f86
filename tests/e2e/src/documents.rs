//! Realistic documents: orders, products and customers as shops in many countries write them, 1 to 30 KB, with all that
//! JSON permits and careless code breaks: exact decimals, integers past 64 bits, exponents, escapes, scripts of many
//! languages, deep nesting, and white space of every taste. They are made as text, so that every byte is known.

use std::fmt::Write;

/// SplitMix64 (Steele, Lea, Flood 2014): a document follows from the seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// The seed: `SHOPERY_TEST_SEED`, or one from the clock. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = match std::env::var("SHOPERY_TEST_SEED") {
        Ok(seed) => seed.parse().expect("SHOPERY_TEST_SEED must be a number"),
        Err(_) => u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos() & 0xFFFF_FFFF).unwrap(),
    };
    println!("SHOPERY_TEST_SEED={seed}");
    seed
}

const NAMES: [&str; 14] = [
    "Zoë Lindqvist",
    "José Ñíguez",
    "Łukasz Żak",
    "O'Brien \\\"Bob\\\"",
    "Ελένη Παπαδοπούλου",
    "Дмитрий Ёлкин",
    "محمد بن سلمان",
    "דוד לוי",
    "山田 太郎",
    "김민준",
    "สมชาย ใจดี",
    "अमित कुमार",
    "\\u00c5sa \\u00d6berg",
    "👩🏽‍🚀 Ada",
];
const CITIES: [&str; 8] =
    ["Göteborg", "São Paulo", "北京市", "Ciudad de México", "Αθήνα", "İstanbul", "Reykjav\\u00edk", "Saint-Étienne"];
const WORDS: [&str; 16] = [
    "mug",
    "blå",
    "crème brûlée",
    "\\\"fragile\\\"",
    "C:\\\\temp",
    "a\\/b",
    "line\\nbreak",
    "tab\\there",
    "\\ud83d\\ude00",
    "日本語",
    "\\u0000",
    "soft\u{ad}hyphen",
    "e\u{301}",
    "\u{2028}",
    "<script>",
    "50\\u0025 off",
];
/// Numbers that a parser into binary floating point would write back otherwise.
const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "-0.0",
    "10.10",
    "19.90",
    "100.00",
    "1E+2",
    "1e-7",
    "0.1",
    "3.141592653589793238462643383279",
    "9007199254740993",
    "18446744073709551616",
    "12345678901234567890123456789",
    "-1.50",
    "1.0e10",
    "2.50E-3",
];
const SPACES: [&str; 6] = ["", "", "", " ", "\n  ", "\r\n\t"];

/// One document: the resource of an event.
#[derive(Debug, Clone)]
pub struct Document {
    pub kind: &'static str,
    pub id: String,
    pub json: String,
}

/// Makes a document of about 1 to 30 KB; most are small, as in life.
pub fn document(random: &mut Random, number: usize) -> Document {
    let kind: &'static str = random.pick(&["order", "order", "product", "customer"]);
    let id = match random.below(4) {
        0 => format!("{kind}.{number} *>é"),
        _ => format!("{kind}_{number}"),
    };
    // The square makes small ones frequent: 1 KB times 30 to the power of u².
    let share = f64::from(u32::try_from(random.below(10_000)).unwrap()) / 10_000.0;
    let wanted = 1000.0 * 28f64.powf(share * share);
    let space = random.pick(&SPACES);
    let mut writer = Writer { json: String::new(), random, space };
    writer.json.push('{');
    write!(writer.json, "\"id\":{}", serde_json::to_string(&id).unwrap()).unwrap();
    writer.head(kind, number);
    let mut lines = 0;
    writer.member("line_items");
    writer.json.push('[');
    while (writer.json.len() as f64) < wanted {
        if lines > 0 {
            writer.comma();
        }
        writer.line(lines);
        lines += 1;
    }
    writer.json.push_str(writer.space);
    writer.json.push_str("]}");
    Document { kind, id, json: writer.json }
}

struct Writer<'a> {
    json: String,
    random: &'a mut Random,
    space: &'static str,
}

impl Writer<'_> {
    fn comma(&mut self) {
        self.json.push(',');
        self.json.push_str(self.space);
    }

    fn member(&mut self, name: &str) {
        self.comma();
        let colon = if self.random.once_in(5) { " : " } else { ":" };
        write!(self.json, "\"{name}\"{colon}").unwrap();
    }

    fn text(&mut self, name: &str, value: &str) {
        self.member(name);
        write!(self.json, "\"{value}\"").unwrap();
    }

    fn number(&mut self, name: &str) {
        let number = self.random.pick(&NUMBERS);
        self.member(name);
        self.json.push_str(number);
    }

    fn head(&mut self, kind: &str, number: usize) {
        let (name, city) = (self.random.pick(&NAMES), self.random.pick(&CITIES));
        self.member("number");
        write!(self.json, "{}", 1_000_000 + number).unwrap();
        self.text("kind", kind);
        self.text("created_at", "2026-11-24T10:00:00.123456789+05:30");
        self.number("total_price");
        self.text("currency", "EUR");
        self.member("customer");
        self.json.push('{');
        write!(self.json, "\"name\":\"{name}\",\"city\":\"{city}\",\"vip\":{},\"note\":null", number.is_multiple_of(2))
            .unwrap();
        self.json.push('}');
        self.member("empty");
        self.json.push_str("[ {} , [] , \"\" , null ]");
        if self.random.once_in(4) {
            let depth = 1 + self.random.below(90);
            self.member("metafields");
            for level in 0..depth {
                self.json.push_str(if level % 2 == 0 { "{\"a\":" } else { "[" });
            }
            self.json.push_str("\"deep\"");
            for level in (0..depth).rev() {
                self.json.push(if level % 2 == 0 { '}' } else { ']' });
            }
        }
    }

    fn line(&mut self, number: usize) {
        self.json.push_str(self.space);
        write!(self.json, "{{\"line\":{number}").unwrap();
        self.number("quantity");
        self.number("price");
        let words: Vec<_> = (0..2 + self.random.below(12)).map(|_| self.random.pick(&WORDS)).collect();
        self.text("title", &words.join(" "));
        self.json.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_json_of_the_promised_size() {
        let mut random = Random::new(7);
        let documents: Vec<_> = (0..2000).map(|number| document(&mut random, number)).collect();
        for document in &documents {
            let value: serde_json::Value = serde_json::from_str(&document.json).unwrap_or_else(|error| {
                panic!("{error}: {}", document.json);
            });
            assert_eq!(value["id"], document.id);
            assert!((1000..31_000).contains(&document.json.len()), "{}", document.json.len());
        }
        assert!(documents.iter().any(|document| document.json.len() > 20_000));
        assert!(documents.iter().any(|document| document.json.contains("[[") || document.json.contains("[{\"a\"")));
    }

    #[test]
    fn a_document_follows_from_the_seed() {
        let make = |seed| document(&mut Random::new(seed), 1).json;
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
