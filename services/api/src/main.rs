use std::process::ExitCode;

use shopery_api::{ABOUT, Config, run};
use shopery_runtime::service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(ABOUT, Config::read, async |config, runtime| {
        let listener = shopery_http::bind(config.listen).await?;
        run(config, listener, runtime).await
    })
}
