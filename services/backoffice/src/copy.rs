//! Buttons that copy what a page shows. The server writes them into every page, and they stay hidden until `copy.js` runs:
//! without JavaScript nobody meets a button that does nothing.
//!
//! A button copies the one `code` element that it shares its parent with, so one listener serves all buttons, those of parts that
//! htmx swaps in included.

use maud::{Markup, html};

use crate::texts::Texts;

/// A button that copies the code beside it. `what` tells a screen reader what that is. Only a button with an `id` keeps the
/// keyboard focus when the part of the page that it is in is replaced.
pub(crate) fn button(texts: &Texts, id: Option<&str>, what: &str) -> Markup {
    html! {
        button.copy.quiet id=[id] type="button" data-copy=(texts.copy) {
            span { (texts.copy) }
            span.unseen { ": " (what) }
        }
    }
}

/// A text within a line.
pub(crate) fn inline(texts: &Texts, id: &str, what: &str, text: &str) -> Markup {
    html! { span.copyable { code { (text) } " " (button(texts, Some(id), what)) } }
}

/// A text of several lines.
pub(crate) fn block(texts: &Texts, what: &str, text: &str) -> Markup {
    html! { div.copyable { pre { code { (text) } } (button(texts, None, what)) } }
}

/// Where a screen reader is told what a button has done. It must be in the page before it says anything.
pub(crate) fn status(texts: &Texts) -> Markup {
    html! { p.unseen #copy-status role="status" data-copied=(texts.copied) data-selected=(texts.copy_selected) {} }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::Language;

    #[test]
    fn a_button_says_what_it_copies_and_sends_no_form() {
        let texts = Language::English.texts();
        assert_eq!(
            inline(texts, "copy-id", "id", "<a>").into_string(),
            "<span class=\"copyable\"><code>&lt;a&gt;</code> <button class=\"copy quiet\" id=\"copy-id\" type=\"button\" \
             data-copy=\"Copy\"><span>Copy</span><span class=\"unseen\">: id</span></button></span>"
        );
        let block = block(texts, "request body", "{}").into_string();
        assert!(block.contains("<pre><code>{}</code></pre><button") && !block.contains("<button id"), "{block}");
    }
}
