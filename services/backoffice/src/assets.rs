//! The style of all pages: a file of its own, under a name that changes with it, so that it is kept for ever.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

const STYLE: &str = include_str!("style.css");

pub(crate) fn routes() -> Router {
    Router::new().route(style_path(), get(style))
}

pub(crate) fn style_path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let hash = digest(&SHA256, STYLE.as_bytes());
        let name: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("/assets/{name}.css")
    })
}

async fn style() -> impl IntoResponse {
    let kept = "public, max-age=31536000, immutable";
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, kept)], STYLE)
}
