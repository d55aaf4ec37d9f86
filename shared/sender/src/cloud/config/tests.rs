use super::*;

const ROLE: &str = "arn:aws:iam::999999999999:role/shopery";
const STATIC: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t")];

fn read(variables: &[(&str, &str)]) -> Result<Clouds, String> {
    let mut env = Env::of(variables.iter().copied());
    let clouds = Clouds::read(&mut env);
    env.finish(clouds)
}

fn with<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("SHOPERY_AWS_PRINCIPAL", ROLE)];
    all.extend(variables);
    all
}

#[test]
fn keys_are_found_in_the_order_of_amazons_libraries() {
    let identity = [("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")];
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials")];
    let ecs = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x")];
    let all = [&STATIC[..], &identity, &container].concat();
    let keys = |variables: &[(&str, &str)]| match read(&with(variables)).unwrap().aws.unwrap().keys {
        AwsKeys::Static { id, .. } => id,
        AwsKeys::WebIdentity { region, token_file, .. } => format!("{region} {token_file}"),
        AwsKeys::Container { url, .. } => url.to_string(),
    };
    assert_eq!(keys(&all), "AKIAIOSFODNN7EXAMPLE");
    assert_eq!(keys(&all[2..]), "us-east-1 /var/run/token");
    assert_eq!(keys(&[&identity[..], &[("AWS_REGION", "eu-west-1")]].concat()), "eu-west-1 /var/run/token");
    assert_eq!(keys(&container), "http://169.254.170.23/v1/credentials");
    assert_eq!(keys(&ecs), "http://169.254.170.2/v2/credentials/x");
    // Keys that this host has for something else are left alone.
    assert!(read(&STATIC).unwrap().aws.is_none());
}

#[test]
fn what_is_wrong_is_named_and_secrets_are_not_shown() {
    for (variables, told) in [
        (with(&[]), "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (vec![("SHOPERY_AWS_PRINCIPAL", "arn:aws:iam::1:role/x")], "must be the ARN"),
        (vec![("SHOPERY_AWS_PRINCIPAL", "arn:aws:sts::999999999999:assumed-role/x/y")], "must be the ARN"),
        (with(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://evil.example/")]), "must be https://"),
        (with(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ".evil.example/")]), "must be a path"),
        (vec![("AWS_REGION", "eu/west")], "must be a region"),
        (vec![("AWS_ENDPOINT_URL", "http://127.0.0.1:5000/x")], "without a path"),
        (vec![("PUBSUB_EMULATOR_HOST", "127.0.0.1:8085/x")], "host:port"),
        (vec![("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")], "cannot read /nowhere/key.json"),
    ] {
        let wrong = read(&variables).unwrap_err();
        assert!(wrong.contains(told), "{wrong}");
    }
    let shown = format!("{:?}", read(&with(&STATIC)).unwrap());
    assert!(shown.contains("AKIAIOSFODNN7EXAMPLE") && !shown.contains("s3cr3t"), "{shown}");
}

#[test]
fn a_key_file_names_its_service_account() {
    let path = std::env::temp_dir().join(format!("shopery-key-file-{}.json", std::process::id()));
    let path = path.to_str().unwrap();
    let whole = r#"{"type":"service_account","project_id":"p","client_email":"a@b.iam","private_key_id":"0a",
        "private_key":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n","token_uri":"https://evil.example"}"#;
    std::fs::write(path, whole).unwrap();
    let clouds = read(&[("GOOGLE_APPLICATION_CREDENTIALS", path)]).unwrap();
    assert_eq!(clouds.google_principal().as_deref(), Some("a@b.iam"));
    assert!(!format!("{clouds:?}").contains("MIIE"));
    for (text, told) in [
        (r#"{"type":"authorized_user","client_email":"a@b","private_key":"MIIE"}"#, "not the key file of a service"),
        (
            r#"{"type":"service_account","client_email":"a@b","private_key_id":"0a","private_key":"MIIE"}"#,
            "private_key",
        ),
        ("MIIE", "no key file"),
    ] {
        std::fs::write(path, text).unwrap();
        let wrong = read(&[("GOOGLE_APPLICATION_CREDENTIALS", path)]).unwrap_err();
        assert!(wrong.contains(told) && !wrong.contains("MIIE"), "{wrong}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn an_address_is_objected_to_before_anything_is_tried() {
    let none = read(&[]).unwrap();
    let both = read(&[&with(&STATIC)[..], &[("PUBSUB_EMULATOR_HOST", "127.0.0.1:8085")]].concat()).unwrap();
    let https: Destination = "https://test.com/".parse().unwrap();
    let bus: Destination = "arn:aws:events:eu-west-1:123456789012:event-bus/orders".parse().unwrap();
    let china: Destination = "arn:aws-cn:events:cn-north-1:123456789012:event-bus/orders".parse().unwrap();
    let ours: Destination = "arn:aws:events:eu-west-1:999999999999:event-bus/orders".parse().unwrap();
    let topic: Destination = "pubsub://shop-analytics/orders".parse().unwrap();
    let amazon = shopery_model::AwsKey::parse("AKIAIOSFODNN7EXAMPLE", "s3cr3t", None, None, None).unwrap();
    let amazon = CloudKey::Aws(amazon);
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";
    let google = CloudKey::Google(GoogleKey::parse("a@b.iam", "0a", pem, None).unwrap());
    for (clouds, destination, own, field) in [
        (&none, &https, None, None),
        (&none, &bus, None, Some("credentials")),
        (&none, &topic, None, Some("credentials")),
        (&both, &bus, None, None),
        (&both, &topic, None, None),
        (&both, &ours, None, Some("url")),
        (&both, &china, None, Some("credentials")),
        // With a key of its own a tenant sends wherever that may.
        (&none, &bus, Some(&amazon), None),
        (&both, &ours, Some(&amazon), None),
        (&none, &topic, Some(&google), None),
        (&both, &topic, Some(&amazon), Some("credentials")),
        (&both, &bus, Some(&google), Some("credentials")),
        (&both, &https, Some(&google), Some("credentials")),
    ] {
        let objection = clouds.objection(destination, own);
        assert_eq!(objection.as_ref().map(|it| it.field.as_ref()), field, "{destination} {own:?} {objection:?}");
    }
}
