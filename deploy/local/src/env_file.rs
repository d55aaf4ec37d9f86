//! `<data-dir>/env`: shell assignments that tell other programs where everything is and how to be let in.
//!
//! Invariant: the file is there only while what it says is true. It is written when all is ready and removed first
//! when the launcher starts or stops; only a launcher that was killed leaves one behind.

use std::path::Path;

use anyhow::Context;

use crate::private_file;

const NAME: &str = "env";

/// Writes the file whole, readable by its owner alone.
pub fn write(data_dir: &Path, variables: &[(&str, String)]) -> anyhow::Result<()> {
    private_file::write(&data_dir.join(NAME), &text(variables))
}

pub fn remove(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join(NAME);
    private_file::remove(&path).with_context(|| format!("cannot remove {}", path.display()))
}

fn text(variables: &[(&str, String)]) -> String {
    let mut text = String::from("# For sh: `. FILE` sets these; `set -a; . FILE; set +a` also exports them.\n");
    for (name, value) in variables {
        text.push_str(&format!("{name}={}\n", shell_word(value)));
    }
    text
}

/// A value as a shell reads it back: as it is where nothing in it is special, else in single quotes.
fn shell_word(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_shell_reads_back_every_value() {
        let dir = TempDir::new();
        for value in [
            "http://127.0.0.1:8080",
            "",
            "two words",
            "it's",
            "'",
            "$HOME `id` \\ \" ! # ; & |",
            "~",
            "Zoë's\tläden",
            "line\nbreak",
            "-n",
        ] {
            write(dir.path(), &[("BEFORE", "x".into()), ("VALUE", value.into())]).unwrap();
            let script = r#"set -eu; . "$1/env"; printf %s "$VALUE""#;
            let output = Command::new("sh").args(["-c", script, "sh"]).arg(dir.path()).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), value);
        }
    }

    #[test]
    fn only_its_owner_reads_it() {
        let dir = TempDir::new();
        let path = dir.path().join(NAME);
        std::fs::write(&path, "stale").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(dir.path(), &[]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
