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

/// The Python that has the packages of `tests/run`: `standardwebhooks`, `boto3`, `rfc8785` and so on.
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
    node_package("standardwebhooks");
    folder().join("npm")
}

fn node_package(name: &str) -> PathBuf {
    let package = folder().join("npm/node_modules").join(name);
    assert!(package.exists(), "npm's {name} IS MISSING at {}: run tests/run", package.display());
    package
}

/// axe-core, a script that looks for what keeps people from using a page.
pub fn axe() -> String {
    std::fs::read_to_string(node_package("axe-core").join("axe.min.js")).unwrap()
}

/// Chromium; Chrome will do.
pub fn chromium() -> PathBuf {
    let found = on_path(&["chromium", "google-chrome"]);
    found.expect("chromium IS MISSING: run tests/run, which installs it")
}

/// Of the same version as [`chromium`].
pub fn chromedriver() -> PathBuf {
    on_path(&["chromedriver"]).expect("chromedriver IS MISSING: run tests/run, which installs it")
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let mut candidates = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.find(|path| path.is_file())
}

/// The folder from which Node finds the package `oidc-provider`.
pub fn openid() -> PathBuf {
    node_package("oidc-provider");
    folder().join("npm")
}

/// The folder from which Node finds the package `lighthouse`.
pub fn lighthouse() -> PathBuf {
    node_package("lighthouse");
    folder().join("npm")
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
