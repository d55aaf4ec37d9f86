use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shopery_model::Keyring;
use tokio::net::TcpListener;

use crate::private_file;

const SECRET_BYTES: usize = 32;
/// In the directory, besides what [`private_file`] writes.
const OURS: [&str; 5] = ["lock", "shopery.db", "shopery.db-wal", "shopery.db-shm", "nats"];

/// The directory that holds everything of an installation, for one launcher at a time.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    is_ephemeral: bool,
    /// Unlocked when this process ends, however it does.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there. Only its owner may look into a new one.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::take(path).with_context(|| format!("cannot use the data directory {}", path.display()))
    }

    fn take(path: &Path) -> anyhow::Result<Self> {
        if path.exists() && !path.is_dir() {
            bail!("it is not a directory");
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let path = path.canonicalize()?;
        let lock = lock(&path)?;
        OURS.iter().try_for_each(|name| make_private(&path.join(name)))?;
        Ok(Self { _lock: lock, path, is_ephemeral: false })
    }

    /// A new directory that is removed when it is dropped.
    pub fn ephemeral() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("shopery-local-{}", &random_hex()?[..16]));
        let mut dir = Self::open(&path)?;
        dir.is_ephemeral = true;
        Ok(dir)
    }

    /// Absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_ephemeral(&self) -> bool {
        self.is_ephemeral
    }

    /// A secret that is made once and kept from then on.
    pub fn secret(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        if let Some(secret) = private_file::read(&path)? {
            let secret = secret.trim();
            if secret.len() != 2 * SECRET_BYTES || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                bail!("{} does not hold a secret of ours; delete it to get a new one", path.display());
            }
            return Ok(secret.to_owned());
        }
        let secret = random_hex()?;
        private_file::write(&path, &secret)?;
        Ok(secret)
    }

    /// The keys that the secrets in the database are sealed with: one of ours at first; its owner may put others there.
    pub fn encryption_keys(&self) -> anyhow::Result<String> {
        self.keys("encryption-keys", "without its keys the stored secrets cannot be read")
    }

    /// The keys that the sessions of the backoffice are sealed with.
    pub fn session_keys(&self) -> anyhow::Result<String> {
        self.keys("session-keys", "delete it to get new ones; everybody signs in again then")
    }

    fn keys(&self, name: &str, what_now: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        if let Some(keys) = private_file::read(&path)? {
            let keys = keys.trim();
            if let Err(error) = keys.parse::<Keyring>() {
                bail!("{}: {error}; {what_now}", path.display());
            }
            return Ok(keys.to_owned());
        }
        let mut key = [0; SECRET_BYTES];
        rand::fill(&mut key).map_err(|_| anyhow!("the operating system gave no random bytes"))?;
        let keys = format!("local-{}:{}", &random_hex()?[..8], STANDARD.encode(key));
        private_file::write(&path, &keys)?;
        Ok(keys)
    }

    /// Listens on loopback, on the port that was used before under this name if nobody else has taken it.
    pub async fn listen(&self, name: &str) -> anyhow::Result<TcpListener> {
        let path = self.path.join(name);
        let before = private_file::read(&path)?.and_then(|port| port.trim().parse::<u16>().ok());
        if let Some(port) = before
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
        {
            return Ok(listener);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on loopback")?;
        private_file::write(&path, &listener.local_addr()?.port().to_string())?;
        Ok(listener)
    }

    /// The URL of a SQLite database in this directory.
    pub fn sqlite_url(&self, name: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
        let path = self.path.join(name);
        let escaped: String = path
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        format!("sqlite://{escaped}?mode=rwc")
    }
}

/// What an earlier version, or a wider umask, has left open to others.
fn make_private(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    let (is_open, mode) = (found.permissions().mode() & 0o077 != 0, if found.is_dir() { 0o700 } else { 0o600 });
    if is_open && !found.is_symlink() {
        let made = std::fs::set_permissions(path, Permissions::from_mode(mode));
        made.with_context(|| format!("cannot take {} from others", path.display()))?;
    }
    Ok(())
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.is_ephemeral
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the temporary directory");
        }
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!("another launcher (process {}) is running on it; stop that, or use --data-dir", holder.trim());
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

pub fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    rand::fill(&mut bytes).map_err(|_| anyhow!("the operating system gave no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_others_could_read_they_can_no_longer() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("shopery.db"), "").unwrap();
        std::fs::write(dir.path().join("a file of somebody's"), "").unwrap();
        for name in ["shopery.db", "a file of somebody's"] {
            std::fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o644)).unwrap();
        }
        let _data = DataDir::open(dir.path()).unwrap();
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("shopery.db"), mode("a file of somebody's")), (0o600, 0o644));
    }

    #[test]
    fn one_launcher_at_a_time() {
        let dir = TempDir::new();
        let first = DataDir::open(dir.path()).unwrap();
        let error = format!("{:#}", DataDir::open(dir.path()).unwrap_err());
        assert!(error.contains(&format!("another launcher (process {})", std::process::id())), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn an_ephemeral_directory_goes_with_its_owner() {
        let dir = DataDir::ephemeral().unwrap();
        dir.secret("s").unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_secret_is_made_once_and_garbage_is_named() {
        let dir = TempDir::new();
        let data = DataDir::open(&dir.path().join("a/b")).unwrap();
        let secret = data.secret("jwt-secret").unwrap();
        assert_eq!(data.secret("jwt-secret").unwrap(), secret);
        assert_ne!(data.secret("other").unwrap(), secret);
        for garbage in [&b""[..], b"short", b"\xff\xfe"] {
            std::fs::write(data.path().join("jwt-secret"), garbage).unwrap();
            let error = format!("{:#}", data.secret("jwt-secret").unwrap_err());
            assert!(error.contains("jwt-secret") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn encryption_keys_are_made_once_kept_private_and_never_replaced() {
        let dir = TempDir::new();
        let data = DataDir::open(dir.path()).unwrap();
        let keys = data.encryption_keys().unwrap();
        assert_eq!(data.encryption_keys().unwrap(), keys);
        let path = data.path().join("encryption-keys");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let rotated = format!("new:{},{keys}", STANDARD.encode([7; SECRET_BYTES]));
        std::fs::write(&path, format!("{rotated}\n")).unwrap();
        assert_eq!(data.encryption_keys().unwrap(), rotated);
        for garbage in ["", "new:", &keys[1..keys.len() - 1]] {
            std::fs::write(&path, garbage).unwrap();
            let error = format!("{:#}", data.encryption_keys().unwrap_err());
            assert!(error.contains("encryption-keys") && !error.contains('\n'), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), garbage);
        }
    }

    #[tokio::test]
    async fn a_port_is_kept_while_it_is_free() {
        let dir = TempDir::new();
        let data = DataDir::open(dir.path()).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let first = data.listen("endpoint.port").await.unwrap();
        let used = port(&first);
        let taken = data.listen("endpoint.port").await.unwrap();
        assert_ne!(port(&taken), used);
        let used = port(&taken);
        drop(taken);
        assert_eq!(port(&data.listen("endpoint.port").await.unwrap()), used);
        std::fs::write(data.path().join("endpoint.port"), "garbage").unwrap();
        data.listen("endpoint.port").await.unwrap();
    }

    #[test]
    fn any_directory_makes_a_url() {
        let dir = TempDir::new();
        let data = DataDir::open(&dir.path().join("a b?c#d%é")).unwrap();
        let url = data.sqlite_url("shopery.db");
        assert!(url.starts_with("sqlite:///") && url.ends_with("/a%20b%3Fc%23d%25%C3%A9/shopery.db?mode=rwc"), "{url}");
    }
}
