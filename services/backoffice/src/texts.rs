//! What pages say, in English and in Spanish. The names of fields are those of the API, and are not translated. A tenant is called a
//! shop: that is what it is to whoever reads this.

use axum::http::{HeaderMap, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Spanish,
}

impl Language {
    /// The one that the browser would rather have; English if it names neither.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut best = (Self::English, 0.0);
        for part in wanted.split(',') {
            let mut of_part = part.trim().split(';');
            let name = of_part.next().unwrap_or_default().to_ascii_lowercase();
            let weight = of_part.find_map(|more| more.trim().strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            let language = match name.split('-').next() {
                Some("en") => Self::English,
                Some("es") => Self::Spanish,
                _ => continue,
            };
            if weight > best.1 {
                best = (language, weight);
            }
        }
        best.0
    }

    pub(crate) fn texts(self) -> &'static Texts {
        match self {
            Self::English => &ENGLISH,
            Self::Spanish => &SPANISH,
        }
    }
}

macro_rules! texts {
    ($($name:ident: $english:literal, $spanish:literal;)*) => {
        #[derive(Debug)]
        pub(crate) struct Texts {
            /// As HTML names it.
            pub(crate) code: &'static str,
            $(pub(crate) $name: &'static str,)*
        }

        static ENGLISH: Texts = Texts { code: "en", $($name: $english,)* };
        static SPANISH: Texts = Texts { code: "es", $($name: $spanish,)* };
    };
}

texts! {
    product: "Shopery Webhooks", "Webhooks de Shopery";
    skip: "Skip to the content", "Ir al contenido";
    as_curl: "As curl", "Como curl";
    copy: "Copy", "Copiar";
    copied: "Copied", "Copiado";
    copy_selected: "Selected: copy it now", "Seleccionado: cópialo ahora";
    command_line: "command line", "línea de comandos";
    curl_command: "curl command", "comando curl";
    event_id: "event id", "id del evento";
    request_body: "request body", "cuerpo de la petición";
    response_body: "response body", "cuerpo de la respuesta";
    attempt: "attempt", "intento";
    verify_code: "code", "código";
    ago: "{} ago", "hace {}";
    in_time: "in {}", "dentro de {}";
    just_now: "just now", "ahora mismo";
    created: "Created", "Creado";
    webhook: "Webhook", "Webhook";
    back_to_webhook: "Back to the webhook", "Volver al webhook";
    switch_tenant: "Switch shop", "Cambiar de tienda";
    next_probe: "It is tried again at", "Se probará de nuevo a las";
    follow: "Show new ones as they come", "Mostrar las nuevas según llegan";
    stop_following: "Stop showing new ones as they come", "Dejar de mostrar las nuevas según llegan";
    new_deliveries: "new.", "nuevas.";
    show: "Show", "Mostrar";
    webhooks: "Webhooks", "Webhooks";
    deliveries: "Deliveries", "Entregas";
    events: "Events", "Eventos";
    sign_in: "Sign in", "Iniciar sesión";
    sign_out: "Sign out", "Cerrar sesión";
    signed_in_as: "Shop", "Tienda";
    token: "Token", "Token";
    token_hint: "A token of the platform, as the API takes it. It is kept in a sealed cookie of this browser alone.",
        "Un token de la plataforma, como lo acepta la API. Solo se guarda en una cookie cifrada de este navegador.";
    tenant: "Shop", "Tienda";
    tenant_hint: "Empty: the first one of the token.", "Vacío: la primera del token.";
    not_a_token: "That is no token: it has three parts with dots between.",
        "Eso no es un token: tiene tres partes separadas por puntos.";
    no_tenant: "This token names no shop: say which one.", "Este token no nombra ninguna tienda: indica cuál.";
    token_too_long: "This token is too long for a cookie (about 2,900 characters are the limit).",
        "Este token es demasiado largo para una cookie (el límite es de unos 2.900 caracteres).";
    token_refused: "The API refuses this token:", "La API rechaza este token:";
    sign_in_first: "Sign in to go on.", "Inicia sesión para continuar.";
    ours: "Something went wrong on our side. Try again.", "Algo ha fallado por nuestra parte. Inténtalo de nuevo.";
    refused: "That could not be done", "No se ha podido hacer";
    forged: "The form was not sent from a page of this session. Open the page again, and send it from there.",
        "El formulario no se envió desde una página de esta sesión. Abre la página de nuevo y envíalo desde allí.";
    malformed: "The form cannot be read, or has more than 64 KiB.", "El formulario no se puede leer o supera 64 KiB.";
    not_found: "There is nothing here", "Aquí no hay nada";
    no_page_why: "No page has this address: it may have been typed or copied wrongly.", "Ninguna página tiene esta dirección: puede estar mal escrita o mal copiada.";
    not_found_why: "It was deleted, or it is another shop's.", "Se ha eliminado o es de otra tienda.";
    not_allowed: "You may not do that", "No puedes hacer eso";
    unavailable: "Not available now", "No disponible ahora";
    unavailable_why: "The API does not answer. Nothing was changed; try again in a moment.",
        "La API no responde. No se ha cambiado nada; inténtalo de nuevo en un momento.";
    read_only: "You may look, but not change anything: your token lacks webhooks:write.",
        "Puedes mirar, pero no cambiar nada: a tu token le falta webhooks:write.";
    create_webhook: "Create webhook", "Crear webhook";
    no_webhooks: "No webhooks yet", "Todavía no hay webhooks";
    no_webhooks_why: "A webhook is a URL of yours that is sent an order, a product or a customer as JSON whenever it changes.",
        "Un webhook es una URL tuya a la que se envía un pedido, un producto o un cliente como JSON cada vez que cambia.";
    no_match: "Nothing matches.", "Nada coincide.";
    search: "Search", "Buscar";
    filter: "Filter", "Filtrar";
    any_state: "Any state", "Cualquier estado";
    any_webhook: "Any webhook", "Cualquier webhook";
    name: "Webhook Name", "Nombre del webhook";
    url: "URL", "URL";
    subscribed: "Events", "Eventos";
    state: "State", "Estado";
    success_24h: "Delivered, 24 h", "Entregado, 24 h";
    p95: "p95", "p95";
    waiting: "Waiting", "En espera";
    active: "active", "activo";
    paused: "paused", "en pausa";
    disabled: "disabled by us", "desactivado por nosotros";
    disabled_gone: "its endpoint answered 410 Gone", "su endpoint respondió 410 Gone";
    disabled_failing: "every attempt had failed for too long", "todos los intentos fallaron durante demasiado tiempo";
    failing_since: "failing since", "fallando desde";
    description: "Description", "Descripción";
    optional: "optional", "opcional";
    events_hint: "Choose what this URL is to be sent.", "Elige qué se enviará a esta URL.";
    all_events: "Everything but delivery-failed", "Todo menos delivery-failed";
    advanced: "Advanced", "Avanzado";
    fields: "Fields", "Campos";
    filter_rule: "Filter", "Filtro";
    filter_hint: "A JSON pattern that the resource must match.", "Un patrón JSON con el que debe coincidir el recurso.";
    changed_rule: "Changed", "Cambios";
    changed_hint: "Paths, a line each: one of them must have changed.",
        "Rutas, una por línea: al menos una debe haber cambiado.";
    debounce: "Debounce", "Agrupar";
    debounce_hint: "Such as 5s: one delivery of what happens within this time.",
        "Por ejemplo 5s: una sola entrega de lo que ocurra en este tiempo.";
    rate_limit: "Rate limit", "Límite de ritmo";
    rate_limit_hint: "Deliveries a second, at most.", "Entregas por segundo, como máximo.";
    test_url: "Test URL", "Probar URL";
    preview: "Preview", "Vista previa";
    save: "Save", "Guardar";
    cancel: "Cancel", "Cancelar";
    edit: "Edit", "Editar";
    delete: "Delete", "Eliminar";
    delete_sure: "Delete it, and end what waits for it?", "¿Eliminarlo y terminar lo que está en espera?";
    pause: "Pause", "Pausar";
    enable_send: "Enable, and send what waits", "Activar y enviar lo que espera";
    enable_discard: "Enable, and discard what waits", "Activar y descartar lo que espera";
    test_passed: "The endpoint answered 200.", "El endpoint respondió 200.";
    test_failed: "The test failed", "La prueba ha fallado";
    changed_meanwhile: "Somebody else has changed this webhook meanwhile. Below is what you typed; look at the changes, then save again.",
        "Otra persona ha cambiado este webhook entretanto. Abajo está lo que escribiste; mira los cambios y guarda de nuevo.";
    would_match: "The example of {} would be sent:", "El ejemplo de {} se enviaría:";
    would_not_match: "The example of {} would not be sent:", "El ejemplo de {} no se enviaría:";
    secret: "Secret", "Secreto";
    reveal: "Reveal", "Mostrar";
    rotate: "Rotate", "Rotar";
    rotate_sure: "Make a new secret? Deliveries have the signatures of both for 24 hours, so that a receiver may change over in between.",
        "¿Crear un secreto nuevo? Durante 24 horas las entregas llevan las firmas de ambos, para que el receptor pueda cambiar mientras tanto.";
    rotated: "There is a new secret. The previous one stays valid for 24 hours.",
        "Hay un secreto nuevo. El anterior sigue siendo válido 24 horas.";
    rotate_hint: "The previous secret stays valid for 24 hours.", "El secreto anterior sigue siendo válido 24 horas.";
    previous_until: "The previous secret is valid until", "El secreto anterior es válido hasta";
    changes: "Changes", "Cambios";
    by: "By", "Por";
    us: "us", "nosotros";
    at: "When", "Cuándo";
    attempts: "Attempts", "Intentos";
    delivered: "Delivered", "Entregadas";
    failed: "Failed", "Fallidas";
    circuit: "Circuit", "Circuito";
    parked: "parked", "aparcadas";
    oldest_since: "the oldest since", "la más antigua desde";
    event: "Event", "Evento";
    resource: "Resource", "Recurso";
    reason: "Reason", "Motivo";
    newer: "Newest", "Más recientes";
    older: "Older", "Más antiguas";
    older_events: "Older", "Más antiguos";
    no_deliveries: "No deliveries yet. They appear here as soon as an event matches a webhook.",
        "Todavía no hay entregas. Aparecerán en cuanto un evento coincida con un webhook.";
    resend: "Send again", "Enviar de nuevo";
    resend_since: "Send again everything that failed since this one",
        "Enviar de nuevo todo lo que falló desde esta";
    request: "Request", "Petición";
    response: "Response", "Respuesta";
    no_response: "No response", "Sin respuesta";
    no_attempts: "No attempt was made.", "No se ha hecho ningún intento.";
    superseded_by: "Superseded by", "Sustituida por";
    duplicate_of: "Duplicate of", "Duplicada de";
    body_missing: "The body is not shown:", "El cuerpo no se muestra:";
    recover: "Send again what failed", "Enviar de nuevo lo que falló";
    recover_plan: "This would send again", "Esto enviaría de nuevo";
    recover_none: "Nothing has failed in this time.", "Nada ha fallado en este tiempo.";
    recover_many: "more than 200,000 deliveries", "más de 200.000 entregas";
    recover_not_held: "of which can no longer be sent", "de las cuales ya no se pueden enviar";
    recovery: "Recovery", "Recuperación";
    resent: "sent", "enviadas";
    skipped: "superseded", "sustituidas";
    unavailable_count: "no longer held", "ya no disponibles";
    refresh: "Refresh", "Actualizar";
    became: "What became of it", "Qué fue de él";
    outcome: "Outcome", "Resultado";
    no_events: "No events yet. The platform publishes them when something happens in your shop.",
        "Todavía no hay eventos. La plataforma los publica cuando algo ocurre en tu tienda.";
    command: "The same on the command line", "Lo mismo en la línea de comandos";
    utc: "UTC", "UTC";
    with_a_token: "With a token", "Con un token";
    no_token_sign_in: "Signing in with a token is switched off here. Sign in at your provider.",
        "Aquí no se puede iniciar sesión con un token. Iníciala en tu proveedor.";
    no_provider: "No provider to sign in at is set up here.", "Aquí no hay configurado ningún proveedor donde iniciar sesión.";
    not_signed_in: "You are not signed in", "No has iniciado sesión";
    sign_in_again: "Sign in again", "Iniciar sesión de nuevo";
    sign_in_unknown: "This sign-in was not begun in this browser, took longer than 10 minutes, or has been finished before. Sign in again.",
        "Este inicio de sesión no se empezó en este navegador, duró más de 10 minutos o ya se había terminado. Inicia sesión de nuevo.";
    sign_in_denied: "The sign-in was cancelled, or your account may not use this. Sign in again, or ask whoever manages your account.",
        "El inicio de sesión se canceló o tu cuenta no tiene permiso. Inténtalo de nuevo o pregunta a quien administra tu cuenta.";
    provider_away: "The provider where you sign in does not answer. Try again in a moment.",
        "El proveedor donde inicias sesión no responde. Inténtalo de nuevo en un momento.";
    provider_refused: "The provider where you sign in refuses us. Trying again will hardly help: tell whoever runs this site. It says:",
        "El proveedor donde inicias sesión nos rechaza. Intentarlo de nuevo no servirá: avisa a quien administra este sitio. Dice:";
    provider_untrusted: "What the provider has answered could not be verified, so nobody was signed in. Try again; if it stays so, tell whoever runs this site.",
        "No se ha podido verificar la respuesta del proveedor, así que no se ha iniciado la sesión. Inténtalo de nuevo; si sigue igual, avisa a quien administra este sitio.";
    provider_no_jwt: "The provider has signed you in, but gave us no token for the API. Tell whoever runs this site: SHOPERY_OIDC_AUDIENCE may be missing.",
        "El proveedor te ha identificado, pero no nos dio un token para la API. Avisa a quien administra este sitio: puede faltar SHOPERY_OIDC_AUDIENCE.";
    provider_no_tenant: "Your account belongs to no shop. Ask whoever manages your account.",
        "Tu cuenta no pertenece a ninguna tienda. Pregunta a quien administra tu cuenta.";
    provider_token_too_long: "The token of your account is too long for a cookie (about 2,900 characters are the limit). Ask whoever manages your account to give it fewer shops or rights.",
        "El token de tu cuenta es demasiado largo para una cookie (el límite es de unos 2.900 caracteres). Pide a quien administra tu cuenta que le dé menos tiendas o permisos.";
    provider_token_refused: "The provider has signed you in, but the API refuses your account:",
        "El proveedor te ha identificado, pero la API rechaza tu cuenta:";
    session_ended: "Your session has ended", "Tu sesión ha terminado";
    session_ended_kept: "Nothing was changed, and what you typed is kept in this page. Sign in; that opens another tab. Then come back here and go on.",
        "No se ha cambiado nada, y lo que escribiste se conserva en esta página. Inicia sesión; se abrirá otra pestaña. Después vuelve aquí y continúa.";
    go_on: "Go on with what I typed", "Continuar con lo que escribí";
    signed_in: "You are signed in", "Has iniciado sesión";
    signed_in_close: "Close this tab, and go on in the one where you were.",
        "Cierra esta pestaña y continúa en la que estabas.";
    ends_soon: "Your session ends at {} UTC.", "Tu sesión termina a las {} UTC.";
    signed_out: "You are signed out", "Has cerrado la sesión";
    signed_out_here: "Your session here has ended.", "Tu sesión aquí ha terminado.";
    signed_out_going_on: "Your session here has ended. You are led to the provider, to end your session there too.",
        "Tu sesión aquí ha terminado. Ahora vas al proveedor para cerrar también la sesión allí.";
    signed_out_here_alone: "Your session here has ended. The provider does not answer: your session there may go on.",
        "Tu sesión aquí ha terminado. El proveedor no responde: tu sesión allí puede seguir abierta.";
    sign_out_there: "Sign out at the provider", "Cerrar sesión en el proveedor";

    // charts
    metrics: "Metrics", "Métricas";
    range: "Time shown", "Periodo mostrado";
    range_hour: "1 hour", "1 hora";
    range_day: "24 hours", "24 horas";
    range_week: "7 days", "7 días";
    range_month: "30 days", "30 días";
    chart_deliveries: "Deliveries", "Entregas";
    chart_most: "At most in one window", "Máximo en un intervalo";
    chart_no_deliveries: "No delivery has ended in this time.", "Ninguna entrega ha terminado en este periodo.";
    chart_latency: "Latency of attempts", "Latencia de los intentos";
    chart_no_attempts: "Nothing was attempted in this time.", "No se ha intentado nada en este periodo.";
    max: "Longest", "Máximo";
    chart_reasons: "Why attempts failed", "Por qué fallaron los intentos";
    chart_no_failures: "No attempt has failed in this time.", "Ningún intento ha fallado en este periodo.";
    share: "Of all attempts", "De todos los intentos";
    as_table: "The numbers as a table", "Los números en una tabla";
    circuit_closed: "deliveries are sent as they come", "las entregas se envían según llegan";
    circuit_open: "the endpoint fails. Deliveries are parked, and from time to time one of them is sent, to see whether it works again.",
        "el endpoint falla. Las entregas quedan aparcadas, y de vez en cuando se envía una para ver si vuelve a funcionar.";
    circuit_draining: "what was parked is being sent", "se está enviando lo aparcado";

    // code that verifies
    verify: "Verify signatures", "Verificar firmas";
    verify_intro: "Your endpoint must check that a message comes from Shopery before it acts on it. Paste this, and call it first.",
        "Tu endpoint debe comprobar que un mensaje viene de Shopery antes de actuar. Pega esto y llámalo primero.";
    language: "Language", "Lenguaje";
    verify_variable: "The code reads its key from the environment variable", "El código lee su clave de la variable de entorno";
    verify_put_secret: "Show it with my secret in it", "Mostrarlo con mi secreto";
    verify_put_key: "Show it with my public key in it", "Mostrarlo con mi clave pública";
    verify_has_secret: "This code has your secret in it. Keep it out of repositories and chats.",
        "Este código contiene tu secreto. No lo guardes en repositorios ni lo pegues en chats.";
    verify_has_key: "This code has your public key in it, which is no secret.",
        "Este código contiene tu clave pública, que no es secreta.";
    verify_asymmetric: "This webhook is signed with Ed25519 alone (v1a): it is verified with a public key.",
        "Este webhook se firma solo con Ed25519 (v1a): se verifica con una clave pública.";
    verify_both: "This webhook is signed in both ways. The code checks the HMAC (v1) and passes over Ed25519 (v1a).",
        "Este webhook se firma de ambas formas. El código comprueba el HMAC (v1) y pasa por alto Ed25519 (v1a).";
    verify_no_asymmetric: "We have no code of this language for Ed25519. With a library for it, verify id.timestamp.body against each signature that begins with v1a, (the rest is base64); the public key is whpk_ and the base64 of its 32 bytes.",
        "No tenemos código en este lenguaje para Ed25519. Con una biblioteca, verifica id.timestamp.body con cada firma que empiece por v1a, (el resto es base64); la clave pública es whpk_ y el base64 de sus 32 bytes.";
    verify_rules: "In any language", "En cualquier lenguaje";
    verify_body: "Verify the bytes of the body as they came, before a framework parses them.",
        "Verifica los bytes del cuerpo tal como llegaron, antes de que un framework los interprete.";
    verify_time: "Refuse a timestamp more than five minutes from now: else an old message could be sent to you again.",
        "Rechaza una marca de tiempo a más de cinco minutos de ahora: si no, podrían reenviarte un mensaje antiguo.";
    verify_several: "While a secret is rotated there are several signatures with spaces between: accept any that is yours. Compare them in constant time.",
        "Mientras se rota un secreto hay varias firmas separadas por espacios: acepta cualquiera que sea tuya. Compáralas en tiempo constante.";
    verify_id: "the same on every attempt: ignore what you have already processed",
        "igual en cada intento: ignora lo que ya hayas procesado";
    verify_sequence: "grows with the states of a resource: drop a state that is older than yours. It is not signed.",
        "crece con los estados de un recurso: descarta un estado más antiguo que el tuyo. No va firmado.";
    verify_test: "true in a test: nothing has happened, so do not act on it", "true en una prueba: no ha ocurrido nada, así que no actúes";
    verify_plain_secret: "the secret itself, for receivers that cannot compute a signature. It does not protect the body: prefer the signature.",
        "el propio secreto, para receptores que no pueden calcular una firma. No protege el cuerpo: prefiere la firma.";

    // events and fields, chosen from the catalogue
    example: "Example", "Ejemplo";
    chosen: "chosen", "elegidos";
    all_of_resource: "all of them, also those to come", "todos, también los futuros";
    fields_of: "Fields of", "Campos de";
    fields_choose: "Choose what is sent. Nothing chosen: the whole resource.", "Elige qué se envía. Sin elegir nada: el recurso completo.";
    fields_show: "Show its fields", "Mostrar sus campos";
    fields_other: "Other fields", "Otros campos";
    fields_other_hint: "Paths, a line each, such as customer.email.", "Rutas, una por línea, como customer.email.";
    no_example: "There is no example of this type: write the paths below.",
        "No hay ejemplo de este tipo: escribe las rutas abajo.";

    // buses and topics
    kind: "Kind", "Tipo";
    url_hint: "https://…, the ARN of an event bus (arn:aws:events:…), or a topic (pubsub://project/topic).",
        "https://…, el ARN de un bus de eventos (arn:aws:events:…) o un tema (pubsub://proyecto/tema).";
    cloud_credentials: "Credentials of a bus or topic", "Credenciales de un bus o tema";
    cloud_credentials_hint: "Leave them empty for an HTTPS URL, and where you let the platform publish as itself. A bus or topic takes no headers of your own and no asymmetric signature.",
        "Déjalas vacías para una URL HTTPS y donde permitas que la plataforma publique con su propia identidad. Un bus o tema no admite cabeceras propias ni firma asimétrica.";
    access_key_id: "Access key ID", "ID de la clave de acceso";
    secret_access_key: "Secret access key", "Clave de acceso secreta";
    role_arn: "Role ARN", "ARN del rol";
    external_id: "External ID", "ID externo";
    key_file: "Key file of a service account", "Archivo de clave de una cuenta de servicio";
    key_file_hint: "Paste the JSON as it is. A private_key that is *** stays as it was.",
        "Pega el JSON tal cual. Un private_key que sea *** se conserva.";
    mask_hint: "*** keeps the one that is stored.", "*** conserva la que está guardada.";
    setup: "How to let us publish there", "Cómo permitirnos publicar ahí";
    setup_policy: "The policy by itself:", "La política por sí sola:";
    test_accepted: "The bus or topic has accepted the test.", "El bus o tema ha aceptado la prueba.";
    verify_bus: "This webhook sends to an event bus, where there is no request to verify: the signature is in detail.metadata, and covers detail.payload in its canonical form (RFC 8785) in place of a body.",
        "Este webhook envía a un bus de eventos, donde no hay petición que verificar: la firma está en detail.metadata y cubre detail.payload en su forma canónica (RFC 8785) en lugar de un cuerpo.";
    verify_topic: "This webhook sends to a topic, where there is no request to verify: the signature is in the attributes of the message, and covers its data in place of a body.",
        "Este webhook envía a un tema, donde no hay petición que verificar: la firma está en los atributos del mensaje y cubre sus datos en lugar de un cuerpo.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_what_the_browser_would_rather_have() {
        for (wanted, language) in [
            ("", Language::English),
            ("es", Language::Spanish),
            ("es-MX,es;q=0.9,en;q=0.8", Language::Spanish),
            ("de-DE,de;q=0.9,en;q=0.5,es;q=0.4", Language::English),
            ("en;q=0.3, es;q=0.7", Language::Spanish),
            ("fr", Language::English),
            ("es;q=x", Language::Spanish),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, wanted.parse().unwrap())]);
            assert_eq!(Language::of(&headers), language, "{wanted}");
        }
    }
}
