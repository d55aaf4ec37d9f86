//! What can happen: the event types, resource by resource. Shopery's own are here; the platform may add to them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{EventType, Invalid};

/// The resource whose events are our own: what becomes of a webhook.
pub(crate) const OPERATIONAL: &str = "webhook";

const MAX_ADDED: usize = 200;
const MAX_NAME: usize = 32;

/// Of each resource: its name, the plural that is accepted for it, what its JSON looks like, and what may happen to it.
type BuiltIn = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const BUILT_IN: [BuiltIn; 5] = [
    (
        "order",
        "orders",
        include_str!("catalogue/order.json"),
        &[
            ("created", "An order was placed"),
            ("updated", "Something of an order changed"),
            ("paid", "An order is paid in full"),
            ("fulfilled", "All of an order was shipped or handed over"),
            ("refunded", "Money was given back for an order, all of it or a part"),
            ("cancelled", "An order was cancelled"),
            ("deleted", "An order was deleted"),
        ],
    ),
    (
        "product",
        "products",
        include_str!("catalogue/product.json"),
        &[
            ("created", "A product was created"),
            ("updated", "Something of a product or of its variants changed"),
            ("deleted", "A product was deleted"),
        ],
    ),
    (
        "customer",
        "customers",
        include_str!("catalogue/customer.json"),
        &[
            ("created", "A customer registered or was created"),
            ("updated", "Something of a customer changed"),
            ("deleted", "A customer was deleted"),
        ],
    ),
    (
        "inventory",
        "inventories",
        include_str!("catalogue/inventory.json"),
        &[
            ("created", "A stock level is kept for the first time"),
            ("updated", "A stock level changed"),
            ("deleted", "A stock level is kept no longer"),
        ],
    ),
    (
        OPERATIONAL,
        "webhooks",
        include_str!("catalogue/webhook.json"),
        &[("disabled", "A webhook was disabled, by us: its endpoint failed for days, or answered 410")],
    ),
];

/// All event types that this process knows.
#[derive(Debug)]
pub struct Catalogue {
    resources: Vec<ResourceType>,
}

/// A kind of resource, and what may happen to it.
#[derive(Debug)]
pub struct ResourceType {
    pub name: &'static str,
    plural: &'static str,
    actions: Vec<(&'static str, String)>,
    /// What its JSON looks like.
    pub shape: Shape,
}

#[derive(Debug, Default, Deserialize)]
pub struct Shape {
    /// A JSON Schema.
    pub schema: Option<Box<RawValue>>,
    pub example: Option<Box<RawValue>>,
}

/// A resource, or further events of a known one, as the platform adds them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    resource: String,
    plural: Option<String>,
    /// Descriptions by action.
    actions: BTreeMap<String, String>,
    schema: Option<Box<RawValue>>,
    example: Option<Box<RawValue>>,
}

static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();

/// The catalogue that names are read with.
pub fn catalogue() -> &'static Catalogue {
    CATALOGUE.get_or_init(Catalogue::built_in)
}

impl Catalogue {
    pub fn built_in() -> Self {
        let resources = BUILT_IN.iter().map(|(name, plural, shape, actions)| ResourceType {
            name,
            plural,
            actions: actions.iter().map(|(action, description)| (*action, (*description).to_owned())).collect(),
            shape: serde_json::from_str(shape).unwrap_or_default(),
        });
        Self { resources: resources.collect() }
    }

    /// The built-in types, and those of a JSON array such as
    /// `[{"resource":"invoice","plural":"invoices","actions":{"paid":"An invoice was paid"},"schema":{…},"example":{…}}]`;
    /// a known resource may be given further actions.
    pub fn with_added(json: &str) -> Result<Self, Invalid> {
        let added: Vec<Added> = serde_json::from_str(json).map_err(|error| {
            Invalid::new("event types", format!("are not the JSON array that they must be: {error}"))
        })?;
        let count: usize = added.iter().map(|added| added.actions.len()).sum();
        if count > MAX_ADDED {
            return Err(Invalid::new("event types", format!("may be at most {MAX_ADDED} more; these are {count}")));
        }
        let mut catalogue = Self::built_in();
        for added in added {
            catalogue.add(added)?;
        }
        Ok(catalogue)
    }

    /// Makes this the catalogue of the process. To be called before any name is read.
    pub fn install(self) -> Result<(), Invalid> {
        let names = |catalogue: &Self| catalogue.types().map(|known| known.to_string()).collect::<Vec<_>>();
        let wanted = names(&self);
        if names(CATALOGUE.get_or_init(|| self)) == wanted {
            Ok(())
        } else {
            Err(Invalid::new("event types", "must be the same for all services of a process"))
        }
    }

    fn add(&mut self, added: Added) -> Result<(), Invalid> {
        let Added { resource, plural, actions, schema, example } = added;
        let plural = plural.unwrap_or_else(|| format!("{resource}s"));
        for name in [&resource, &plural].into_iter().chain(actions.keys()) {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
                let rule = format!("has the name {name:?}; a name is 1 to {MAX_NAME} of a-z, 0-9 and _");
                return Err(Invalid::new("event types", rule));
            }
        }
        if resource == OPERATIONAL {
            return Err(Invalid::new(
                "event types",
                format!("of {OPERATIONAL} are published by Shopery Webhooks alone"),
            ));
        }
        let clash = |known: &&ResourceType| known.name != resource && (known.knows(&resource) || known.knows(&plural));
        if let Some(known) = self.resources.iter().find(clash) {
            return Err(Invalid::new("event types", format!("name {resource:?} like the known {}", known.name)));
        }
        let index = self.resources.iter().position(|known| known.name == resource).unwrap_or_else(|| {
            // Once in the life of a process.
            let (name, plural) = (&*resource.leak(), &*plural.leak());
            self.resources.push(ResourceType { name, plural, actions: Vec::new(), shape: Shape::default() });
            self.resources.len() - 1
        });
        let Some(known) = self.resources.get_mut(index) else { return Ok(()) };
        for (action, description) in actions {
            if known.actions.iter().all(|(known, _)| *known != action) {
                known.actions.push((action.leak(), description));
            }
        }
        known.shape.schema = schema.or(known.shape.schema.take());
        known.shape.example = example.or(known.shape.example.take());
        Ok(())
    }

    pub fn resources(&self) -> impl Iterator<Item = &ResourceType> {
        self.resources.iter()
    }

    /// Every event type, resource by resource.
    pub fn types(&self) -> impl Iterator<Item = EventType> {
        self.resources.iter().flat_map(|resource| resource.types().map(|(event_type, _)| event_type))
    }

    /// The resource of this name, in the singular or the plural.
    pub fn resource(&self, name: &str) -> Option<&ResourceType> {
        self.resources.iter().find(|resource| resource.knows(name))
    }

    /// `order-created` or `orders-created`.
    pub fn read(&self, text: &str) -> Option<EventType> {
        let (name, action) = text.split_once('-')?;
        let resource = self.resource(name)?;
        let (action, _) = resource.actions.iter().find(|(known, _)| *known == action)?;
        Some(EventType { resource: resource.name, action })
    }
}

impl ResourceType {
    /// Its event types with their descriptions.
    pub fn types(&self) -> impl Iterator<Item = (EventType, &str)> {
        self.actions
            .iter()
            .map(|(action, description)| (EventType { resource: self.name, action }, description.as_str()))
    }

    fn knows(&self, name: &str) -> bool {
        self.name == name || self.plural == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_has_a_schema_and_an_example_that_has_what_it_requires() {
        for resource in Catalogue::built_in().resources() {
            let read = |json: &Option<Box<RawValue>>| -> serde_json::Value {
                serde_json::from_str(json.as_ref().unwrap_or_else(|| panic!("{}", resource.name)).get()).unwrap()
            };
            let (schema, example) = (read(&resource.shape.schema), read(&resource.shape.example));
            for required in schema["required"].as_array().unwrap() {
                assert!(example.get(required.as_str().unwrap()).is_some(), "{} {required}", resource.name);
            }
        }
    }

    #[test]
    fn the_platform_adds_resources_and_actions() {
        let json = r#"[
            {"resource":"invoice","actions":{"paid":"An invoice was paid"},"example":{"id":"i"}},
            {"resource":"order","actions":{"archived":"An order was archived","created":"again"}}
        ]"#;
        let catalogue = Catalogue::with_added(json).unwrap();
        let read = |name| catalogue.read(name).map(|known| known.to_string());
        assert_eq!(read("invoices-paid").as_deref(), Some("invoice-paid"));
        assert_eq!(read("order-archived").as_deref(), Some("order-archived"));
        assert_eq!(read("order-created").as_deref(), Some("order-created"));
        assert_eq!(catalogue.types().count(), Catalogue::built_in().types().count() + 2);
        assert_eq!(Catalogue::built_in().read("invoice-paid"), None);
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        for (json, named) in [
            ("{}", "array"),
            (r#"[{"resource":"a b","actions":{"paid":""}}]"#, "a b"),
            (r#"[{"resource":"a","actions":{"p-d":""}}]"#, "p-d"),
            (r#"[{"resource":"a","action":{"paid":""}}]"#, "action"),
            (r#"[{"resource":"webhook","actions":{"paid":""}}]"#, "webhook"),
            (r#"[{"resource":"orders","actions":{"paid":""}}]"#, "order"),
            (r#"[{"resource":"x","plural":"order","actions":{"paid":""}}]"#, "order"),
        ] {
            let error = Catalogue::with_added(json).unwrap_err();
            assert!(error.detail.contains(named), "{json}: {}", error.detail);
        }
    }
}
