//! What is found beside the tests: the binaries of the workspace, and the parts that `tests/run` installs.

use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

/// `target/<profile>`: the test executable lies in its folder `deps`.
fn profile() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// `target/parts`
pub fn folder() -> PathBuf {
    profile().parent().unwrap().join("parts")
}

/// The root of the repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// A binary of the workspace.
pub fn binary(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(path.exists(), "THE BINARY {} IS MISSING: run tests/run, which builds it first", path.display());
    path
}

/// The Python that has the package `standardwebhooks`.
pub fn python() -> PathBuf {
    let path = folder().join("venv/bin/python");
    assert!(path.exists(), "PYTHON WITH standardwebhooks IS MISSING at {}: run tests/run", path.display());
    path
}

/// A program that pip has put beside [`python`].
pub fn tool(name: &str) -> PathBuf {
    let path = folder().join("venv/bin").join(name);
    assert!(path.exists(), "{name} IS MISSING at {}: run tests/run", path.display());
    path
}

/// The folder from which Node finds the package `standardwebhooks`.
pub fn node_packages() -> PathBuf {
    let path = folder().join("receiver");
    let package = path.join("node_modules/standardwebhooks");
    assert!(package.exists(), "npm's standardwebhooks IS MISSING at {}: run tests/run", package.display());
    path
}

/// The folder from which Node finds the package `oidc-provider`.
pub fn openid() -> PathBuf {
    let path = folder().join("openid");
    let package = path.join("node_modules/oidc-provider");
    assert!(package.exists(), "npm's oidc-provider IS MISSING at {}: run tests/run", package.display());
    path
}

/// The library that sets the clock of one process, with `LD_PRELOAD` and `FAKETIME`.
pub fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("libfaketime IS MISSING: run tests/run, which installs it")
}

/// The `nats-server` binary.
pub async fn nats_server() -> PathBuf {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    let find = || async {
        let cache = folder().join("nats-server");
        let found = tokio::task::spawn_blocking(move || shopery_local::nats_server::find_or_install(&cache));
        found.await.unwrap().unwrap_or_else(|error| panic!("NO nats-server TO BE HAD: {error:#}"))
    };
    FOUND.get_or_init(find).await.clone()
}
