use std::process::ExitCode;

use shopery_router::{ABOUT, Config, run};
use shopery_runtime::service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(ABOUT, Config::read, async |config, runtime| {
        let listener = shopery_http::bind(config.listen).await?;
        let operations = shopery_http::serve(listener, shopery_http::operations(&runtime), &runtime.shutdown);
        tokio::try_join!(operations, run(config, runtime.clone())).map(drop)
    })
}
