//! The content mode of a request or message, as CloudEvents has it.

use shopery_model::is_json;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One event, the body is all of it.
    Structured,
    /// An array of events.
    Batch,
    /// One event, its attributes are headers, and the body is its data.
    Binary,
}

impl Mode {
    /// `has_attributes` is whether there are headers of binary mode. A content type of CloudEvents goes before them: it says
    /// that the body has the attributes, and the headers may repeat them for those who do not read bodies. `None` if the
    /// content type is none that we take.
    pub(crate) fn of(content_type: &str, has_attributes: bool) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/cloudevents+json" => Some(Self::Structured),
            "application/cloudevents-batch+json" => Some(Self::Batch),
            // Other formats of CloudEvents.
            other if other.starts_with("application/cloudevents") => None,
            other if has_attributes => is_json(other).then_some(Self::Binary),
            "application/json" => Some(Self::Structured),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_of_cloudevents_goes_before_headers() {
        for (content_type, has_attributes, mode) in [
            ("application/cloudevents+json", false, Some(Mode::Structured)),
            ("Application/CloudEvents+JSON; charset=utf-8", true, Some(Mode::Structured)),
            ("application/cloudevents-batch+json", true, Some(Mode::Batch)),
            ("application/cloudevents+avro", true, None),
            ("application/cloudevents-batch+avro", false, None),
            ("application/json", false, Some(Mode::Structured)),
            ("application/json; charset=utf-8", true, Some(Mode::Binary)),
            ("application/vnd.shopery.order+json", true, Some(Mode::Binary)),
            ("application/vnd.shopery.order+json", false, None),
            ("text/xml", true, None),
            ("", true, None),
            ("", false, None),
        ] {
            assert_eq!(Mode::of(content_type, has_attributes), mode, "{content_type} {has_attributes}");
        }
    }
}
