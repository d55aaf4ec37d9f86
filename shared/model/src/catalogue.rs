//! What can happen: the event types, resource by resource. Shopery's own are here; the platform may add to them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{EventType, Invalid};

/// The resource whose events are our own: what becomes of a webhook. So is `delivery-failed`; the platform may have deliveries,
/// of goods, with other actions.
pub(crate) const OPERATIONAL: &str = "webhook";
/// What others are notified of when a delivery has failed.
pub const DELIVERY_FAILED: &str = "delivery-failed";

const MAX_ADDED: usize = 200;
const MAX_NAME: usize = 32;

/// Of each resource: its name, the plural that is accepted for it, what its JSON looks like, and what may happen to it.
type BuiltIn = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const BUILT_IN: [BuiltIn; 6] = [
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
        &[
            ("disabled", "A webhook was disabled, by us: its endpoint failed for days, or answered 410"),
            (
                "failing",
                "The endpoint of a webhook fails, so its deliveries wait (`error` says why); or every attempt has failed for days, \
                 and if that goes on it is disabled (`willBeDisabled`)",
            ),
            ("recovered", "The endpoint of a webhook that was failing works again: something was delivered"),
        ],
    ),
    (
        "delivery",
        "deliveries",
        include_str!("catalogue/delivery.json"),
        &[("failed", "A delivery has failed, and is not tried again")],
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
    actions: Vec<Action>,
    /// What its payload looks like, unless an action has another one.
    shape: Shape,
}

#[derive(Debug)]
struct Action {
    name: &'static str,
    description: String,
    /// Where its payload differs from that of the resource: a deletion has little more than the id, and the example of
    /// a paid order is paid.
    shape: Shape,
}

/// What a payload looks like.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    /// A JSON Schema, draft 2020-12.
    schema: Option<Box<RawValue>>,
    example: Option<Box<RawValue>>,
}

/// A file of the catalogue.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shapes {
    schema: Option<Box<RawValue>>,
    example: Option<Box<RawValue>>,
    /// By action, where they differ.
    #[serde(default)]
    actions: BTreeMap<String, Shape>,
}

/// A resource, or further events of a known one, as the platform adds them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    resource: String,
    plural: Option<String>,
    /// By name, what [`AddedAction::read`] reads.
    actions: BTreeMap<String, Box<RawValue>>,
    schema: Option<Box<RawValue>>,
    example: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddedAction {
    description: String,
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
        let resources = BUILT_IN.iter().map(|(name, plural, shapes, actions)| {
            let Shapes { schema, example, actions: mut own } = serde_json::from_str(shapes).unwrap_or_default();
            let actions = actions.iter().map(|(name, description)| Action {
                name,
                description: (*description).to_owned(),
                shape: own.remove(*name).unwrap_or_default(),
            });
            ResourceType { name, plural, actions: actions.collect(), shape: Shape { schema, example } }
        });
        Self { resources: resources.collect() }
    }

    /// The built-in types, and those of a JSON array such as
    /// `[{"resource":"invoice","plural":"invoices","actions":{"paid":"An invoice was paid"},"schema":{…},"example":{…}}]`;
    /// a known resource may be given further actions. An action whose payload differs from that of its resource is an
    /// object: `"deleted":{"description":"An invoice was deleted","schema":{…},"example":{…}}`.
    ///
    /// What the platform says of a payload replaces what is built in.
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
        let actions =
            actions.into_iter().map(|(name, json)| AddedAction::read(&name, &json).map(|action| (name, action)));
        let actions: BTreeMap<_, _> = actions.collect::<Result<_, _>>()?;
        for name in [&resource, &plural].into_iter().chain(actions.keys()) {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
                let rule = format!("has the name {name:?}; a name is 1 to {MAX_NAME} of a-z, 0-9 and _");
                return Err(Invalid::new("event types", rule));
            }
        }
        if resource == OPERATIONAL {
            let rule = format!("of {OPERATIONAL} are published by Shopery Webhooks alone");
            return Err(Invalid::new("event types", rule));
        }
        if actions.keys().any(|action| format!("{resource}-{action}") == DELIVERY_FAILED) {
            let rule =
                format!("have {DELIVERY_FAILED}, which Shopery Webhooks alone publishes; name the action otherwise");
            return Err(Invalid::new("event types", rule));
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
        if schema.is_some() || example.is_some() {
            // The examples that are built in are of the resource as it was.
            for action in known.actions.iter_mut().filter(|action| action.shape.schema.is_none()) {
                action.shape.example = None;
            }
        }
        known.shape.replace(Shape { schema, example });
        for (name, AddedAction { description, schema, example }) in actions {
            let shape = Shape { schema, example };
            match known.actions.iter_mut().find(|known| known.name == name) {
                Some(known) => known.shape.replace(shape),
                None => known.actions.push(Action { name: name.leak(), description, shape }),
            }
        }
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
        let action = resource.actions.iter().find(|known| known.name == action)?;
        Some(EventType { resource: resource.name, action: action.name })
    }

    /// The JSON Schema of an event type's payload, if there is one.
    pub fn schema(&self, event_type: EventType) -> Option<&RawValue> {
        self.resource(event_type.resource)?.schema(event_type)
    }

    /// A payload of an event type, if there is an example.
    pub fn example(&self, event_type: EventType) -> Option<&RawValue> {
        self.resource(event_type.resource)?.example(event_type)
    }
}

impl ResourceType {
    /// Its event types with their descriptions.
    pub fn types(&self) -> impl Iterator<Item = (EventType, &str)> {
        let of = |action: &Action| EventType { resource: self.name, action: action.name };
        self.actions.iter().map(move |action| (of(action), action.description.as_str()))
    }

    fn schema(&self, event_type: EventType) -> Option<&RawValue> {
        let own = self.own_shape(event_type).and_then(|own| own.schema.as_deref());
        own.or(self.shape.schema.as_deref())
    }

    fn example(&self, event_type: EventType) -> Option<&RawValue> {
        let own = self.own_shape(event_type);
        // The resource's example is none of an action that has a schema of its own.
        let resource = self.shape.example.as_deref().filter(|_| own.is_none_or(|own| own.schema.is_none()));
        own.and_then(|own| own.example.as_deref()).or(resource)
    }

    fn own_shape(&self, event_type: EventType) -> Option<&Shape> {
        self.actions.iter().find(|action| action.name == event_type.action).map(|action| &action.shape)
    }

    fn knows(&self, name: &str) -> bool {
        self.name == name || self.plural == name
    }
}

impl Shape {
    /// Takes over what `other` has. An example goes with the schema that it is an example of.
    fn replace(&mut self, other: Self) {
        if other.schema.is_some() {
            *self = other;
        } else if other.example.is_some() {
            self.example = other.example;
        }
    }
}

impl AddedAction {
    /// A description, or an object with the shape of the action's payload too.
    fn read(name: &str, json: &RawValue) -> Result<Self, Invalid> {
        let read = if json.get().starts_with('"') {
            serde_json::from_str(json.get()).map(|description| Self { description, schema: None, example: None })
        } else {
            serde_json::from_str(json.get())
        };
        read.map_err(|error| {
            Invalid::new("event types", format!("have an action {name:?} that cannot be read: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Filter;

    fn value(json: Option<&RawValue>) -> Value {
        serde_json::from_str(json.unwrap().get()).unwrap()
    }

    /// The schema and the example of an event type, which must be there.
    fn shape(catalogue: &Catalogue, name: &str) -> [Value; 2] {
        let event_type = catalogue.read(name).unwrap();
        [catalogue.schema(event_type), catalogue.example(event_type)].map(value)
    }

    #[test]
    fn each_example_is_what_its_schema_says() {
        let catalogue = Catalogue::built_in();
        for event_type in catalogue.types() {
            let [schema, example] = shape(&catalogue, &event_type.to_string());
            let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
            let errors: Vec<_> = validator.iter_errors(&example).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{event_type}");
            // And so does no other value: each required member is looked at.
            for required in schema["required"].as_array().unwrap() {
                let mut less = example.clone();
                less.as_object_mut().unwrap().remove(required.as_str().unwrap()).unwrap();
                assert!(!validator.is_valid(&less), "{event_type} {required}");
            }
        }
    }

    #[test]
    fn the_files_have_shapes_of_known_actions_alone() {
        for (resource, _, shapes, actions) in BUILT_IN {
            // A file that cannot be read would be an empty one.
            let shapes: Shapes = serde_json::from_str(shapes).unwrap();
            for named in shapes.actions.keys() {
                assert!(actions.iter().any(|(known, _)| known == named), "{resource}-{named}");
            }
        }
    }

    #[test]
    fn an_example_looks_as_its_event_says() {
        let catalogue = Catalogue::built_in();
        let example = |name: &str| shape(&catalogue, name)[1].clone();
        for (name, status) in [
            ("order-created", "open"),
            ("order-updated", "open"),
            ("order-paid", "paid"),
            ("order-fulfilled", "fulfilled"),
            ("order-refunded", "refunded"),
            ("order-cancelled", "cancelled"),
        ] {
            let order = example(name);
            assert_eq!((&order["status"], &order["id"]), (&json!(status), &json!("ord_123")), "{name}");
            let price = |line: &Value| line["price"].as_f64().unwrap() * line["quantity"].as_f64().unwrap();
            let total: f64 = order["line_items"].as_array().unwrap().iter().map(price).sum();
            assert!((total - order["total_price"].as_f64().unwrap()).abs() < 0.005, "{order} does not add up");
        }
        for resource in ["order", "product", "customer", "inventory"] {
            let (created, deleted) = (example(&format!("{resource}-created")), example(&format!("{resource}-deleted")));
            assert_eq!(deleted["id"], created["id"]);
            assert!(deleted["deleted_at"].is_string() && deleted.as_object().unwrap().len() == 2, "{deleted}");
        }
    }

    #[test]
    fn a_filter_by_price_finds_the_order() {
        let catalogue = Catalogue::built_in();
        let order = catalogue.example(catalogue.read("order-created").unwrap()).unwrap();
        for (filter, matches) in [
            (r#"{"total_price":[{"numeric":[">",50]}]}"#, true),
            (r#"{"total_price":[{"numeric":[">",60]}]}"#, false),
            (r#"{"line_items":{"sku":["MUG-BLUE"],"price":[{"numeric":["=",29.9]}]}}"#, true),
        ] {
            let filter: Filter = serde_json::from_str(filter).unwrap();
            assert_eq!(filter.matches(order.get().as_bytes()), matches, "{filter:?}");
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
    fn an_action_may_have_a_shape_of_its_own() {
        let json = r#"[
            {"resource":"invoice","schema":{"title":"Invoice"},"example":{"total":59.80},"actions":{
                "paid":"An invoice was paid",
                "sent":{"description":"An invoice was sent","example":{"sent":true}},
                "deleted":{"description":"An invoice was deleted","schema":{"title":"Gone"}}}},
            {"resource":"order","schema":{"title":"Ours"},"example":{"id":1},"actions":{"archived":"An order was archived"}},
            {"resource":"product","actions":{"created":{"description":"again","schema":{"title":"New"},"example":{}}}}
        ]"#;
        let catalogue = Catalogue::with_added(json).unwrap();
        let shape = |name| shape(&catalogue, name);
        assert_eq!(shape("invoice-paid"), [json!({ "title": "Invoice" }), json!({ "total": 59.80 })]);
        assert_eq!(shape("invoice-sent"), [json!({ "title": "Invoice" }), json!({ "sent": true })]);
        let deleted = catalogue.read("invoice-deleted").unwrap();
        assert_eq!(value(catalogue.schema(deleted)), json!({ "title": "Gone" }));
        assert!(catalogue.example(deleted).is_none(), "an invoice is no example of a deletion");
        // A built-in example is none of the platform's schema; a deletion keeps its own.
        for name in ["order-archived", "order-created", "order-paid"] {
            assert_eq!(shape(name), [json!({ "title": "Ours" }), json!({ "id": 1 })], "{name}");
        }
        assert_eq!(shape("order-deleted")[1]["id"], "ord_123");
        assert_eq!(shape("product-created"), [json!({ "title": "New" }), json!({})]);
        assert_eq!(shape("product-updated")[0]["title"], "Product");
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        for (json, named) in [
            ("{}", "array"),
            (r#"[{"resource":"a b","actions":{"paid":""}}]"#, "a b"),
            (r#"[{"resource":"a","actions":{"p-d":""}}]"#, "p-d"),
            (r#"[{"resource":"a","action":{"paid":""}}]"#, "action"),
            (r#"[{"resource":"a","actions":{"paid":7}}]"#, "paid"),
            (r#"[{"resource":"a","actions":{"paid":{"schema":{}}}}]"#, "description"),
            (r#"[{"resource":"a","actions":{"paid":{"description":"","shema":{}}}}]"#, "shema"),
            (r#"[{"resource":"webhook","actions":{"paid":""}}]"#, "webhook"),
            (r#"[{"resource":"delivery","actions":{"shipped":"","failed":""}}]"#, "delivery-failed"),
            (r#"[{"resource":"orders","actions":{"paid":""}}]"#, "order"),
            (r#"[{"resource":"x","plural":"order","actions":{"paid":""}}]"#, "order"),
        ] {
            let error = Catalogue::with_added(json).unwrap_err();
            assert!(error.detail.contains(named), "{json}: {}", error.detail);
        }
    }
}
