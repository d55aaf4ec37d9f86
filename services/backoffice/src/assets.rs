//! The files that pages need: each under a name that changes with it, so that it is kept for ever.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// What tells a content from others, as text.
pub(crate) fn fingerprint(content: &str) -> String {
    digest(&SHA256, content.as_bytes()).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// A file that is part of the program.
#[derive(Debug)]
pub(crate) struct Asset {
    content: &'static str,
    content_type: &'static str,
    extension: &'static str,
    path: OnceLock<String>,
}

pub(crate) static STYLE: Asset = Asset::new(include_str!("style.css"), "text/css; charset=utf-8", "css");
pub(crate) static ICON: Asset = Asset::new(include_str!("icon.svg"), "image/svg+xml", "svg");
/// Keeps a page up to date while it is looked at. Nothing needs it.
pub(crate) static HTMX: Asset =
    Asset::new(include_str!("../vendor/htmx-2.0.11.min.js"), "text/javascript; charset=utf-8", "js");
/// What the buttons that copy do.
pub(crate) static COPY: Asset = Asset::new(include_str!("copy.js"), "text/javascript; charset=utf-8", "js");

impl Asset {
    const fn new(content: &'static str, content_type: &'static str, extension: &'static str) -> Self {
        Self { content, content_type, extension, path: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.get_or_init(|| format!("/assets/{}.{}", fingerprint(self.content), self.extension))
    }
}

pub(crate) fn routes() -> Router {
    let serve = |asset: &'static Asset| {
        get(async move || {
            let kept = "public, max-age=31536000, immutable";
            ([(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, kept)], asset.content).into_response()
        })
    };
    let all = [&STYLE, &ICON, &HTMX, &COPY];
    all.into_iter().fold(Router::new(), |routes, asset| routes.route(asset.path(), serve(asset)))
}
