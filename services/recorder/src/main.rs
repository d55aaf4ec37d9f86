use std::process::ExitCode;

use shopery_http::Connections;
use shopery_recorder::{ABOUT, Config, run};
use shopery_runtime::service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(ABOUT, Config::read, |config, runtime| async move {
        let listener = shopery_http::bind(config.listen).await?;
        let connections = Connections::of_operations("recorder", &runtime);
        let operations =
            shopery_http::serve(listener, shopery_http::operations(&runtime), connections, &runtime.shutdown);
        // The service first: before anybody asks, it says that it is starting.
        tokio::try_join!(run(config, runtime.clone()), operations).map(drop)
    })
}
