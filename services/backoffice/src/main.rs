use std::process::ExitCode;

use shopery_backoffice::{ABOUT, Config, run};
use shopery_runtime::service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(ABOUT, Config::read, |config, runtime| async move {
        let listener = shopery_http::bind(config.listen).await?;
        run(config, listener, None, runtime).await
    })
}
