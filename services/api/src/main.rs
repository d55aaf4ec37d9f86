use std::process::ExitCode;

use shopery_api::{ABOUT, Config, reencrypt, run};
use shopery_runtime::service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == reencrypt::COMMAND).is_some() {
        return service::command(reencrypt::ABOUT, arguments, reencrypt::Config::read, reencrypt::run);
    }
    service::main(ABOUT, Config::read, |config, runtime| async move {
        let listener = shopery_http::bind(config.listen).await?;
        run(config, listener, runtime).await
    })
}
