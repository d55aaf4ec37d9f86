//! The last look at an error before it is shown: what has the form of a secret is taken out, however it got there.

/// What a secret of ours begins with; a token is told by its form.
const SECRETS: [&str; 2] = ["whsec_", "whsk_"];

pub fn redact(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=_.-".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_part(c) != is_part(first)).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        match secret_in(run) {
            Some(place) => {
                shown.push_str(&run[..place]);
                shown.push_str("***");
            }
            None => shown.push_str(run),
        }
        rest = behind;
    }
    shown
}

/// Where in a run of characters a secret begins.
fn secret_in(run: &str) -> Option<usize> {
    // A prefix alone, as in "must be whsec_ and …", is none.
    let of_ours =
        SECRETS.iter().filter_map(|prefix| run.find(prefix).filter(|at| run.len() > at + prefix.len() + 3)).min();
    let is_token = |at: &usize| run[*at..].len() > 20 && run[*at..].contains('.');
    of_ours.or_else(|| run.find("eyJ").filter(is_token))
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn a_secret_is_taken_out_wherever_it_stands() {
        for (said, shown) in [
            (
                "unexpected argument 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln' found",
                "unexpected argument '***' found",
            ),
            ("--secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw!", "--secret=***!"),
            ("a whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A= b", "a *** b"),
            ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\n", "Bearer ***\n"),
            ("must be whsec_ and the base64 of 24 to 64 bytes", "must be whsec_ and the base64 of 24 to 64 bytes"),
            ("wbh_01HA4XCG60CT4G3EWF4CKYM1MF, Łukasz, 山田", "wbh_01HA4XCG60CT4G3EWF4CKYM1MF, Łukasz, 山田"),
            ("", ""),
        ] {
            assert_eq!(redact(said), shown, "{said}");
        }
    }
}
