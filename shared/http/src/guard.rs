//! Counts requests, by tenant, by client and by address, and refuses what is too many with 429.
//!
//! The guard counts and does nothing else: whether a request is permitted is for its handler to say ([`Access`]).
//! A request whose token does not hold counts for the address that it comes from. An address with too many of those is
//! refused before a token of it is verified, which is what costs; a token that was verified before is not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use shopery_model::TenantId;
use shopery_runtime::Env;

use crate::limits::{Buckets, Limit, Turn, policy, write_state};
use crate::peer::Proxies;
use crate::{Access, Problem};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// The limits of a face.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    tenant: Limit,
    client: Limit,
    address: Limit,
    pub(crate) proxies: Proxies,
}

/// What a face allows unless the operator says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Usual {
    pub tenant: &'static str,
    pub client: &'static str,
}

impl LimitsConfig {
    /// `names` are the variables of tenants and of clients: faces may share a process, but not their limits.
    pub fn read(env: &mut Env, names: [&'static str; 2], usual: Usual) -> Option<Self> {
        let [tenant, client] = names;
        let tenant = env.or(tenant, usual.tenant, "Requests of one tenant in a time, such as 600/1m; off: no limit");
        let client = env.or(client, usual.client, "Requests of one client, the claim sub of its token; off: no limit");
        let address = env.or(
            "SHOPERY_ADDRESS_LIMIT",
            "1200/1m",
            "Requests without a good token from one address; beyond, its new tokens are not looked at; off: no limit",
        );
        let proxies = Proxies::read(env);
        Some(Self { tenant: tenant?, client: client?, address: address?, proxies: proxies? })
    }
}

/// Who is counted as a client: the subject of a token; the address, of one without.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Client {
    Subject(String),
    Address(IpAddr),
}

struct Guard {
    access: Access,
    proxies: Proxies,
    tenants: Option<Buckets<TenantId>>,
    clients: Option<Buckets<Client>>,
    addresses: Option<Buckets<IpAddr>>,
    /// What is said to whoever has a token, and to the others.
    policies: [Option<HeaderValue>; 2],
}

/// Counts the requests of these routes.
pub fn guarded<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    access: Access,
    limits: &LimitsConfig,
) -> Router<S> {
    routes.route_layer(from_fn_with_state(Arc::new(Guard::new(access, limits)), admit))
}

async fn admit(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let origin = guard.proxies.origin(&request);
    let (turns, policy) = guard.turns(request.headers(), origin).await;
    let refused = turns.iter().flatten().find_map(|(name, turn)| match turn {
        Turn::Refused { wait } => Some(too_many(name, *wait)),
        Turn::Passed { .. } => None,
    });
    let mut response = match refused {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    if let Some(policy) = policy {
        let mut states = String::with_capacity(64);
        for (name, turn) in turns.iter().flatten() {
            write_state(&mut states, name, *turn);
        }
        if let Ok(states) = HeaderValue::try_from(states) {
            response.headers_mut().insert(STATE, states);
            response.headers_mut().insert(POLICY, policy.clone());
        }
    }
    response
}

/// What a request has been told by each limit that it meets.
type Turns = [Option<(&'static str, Turn)>; 2];

impl Guard {
    fn new(access: Access, limits: &LimitsConfig) -> Self {
        let tenants = limits.tenant.0.map(|quota| Buckets::new("tenant", quota));
        let clients = limits.client.0.map(|quota| Buckets::new("client", quota));
        let addresses = limits.address.0.map(|quota| Buckets::new("address", quota));
        let known = [("tenant", limits.tenant.0), ("client", limits.client.0)];
        let header = |of: &[(&str, Option<_>)]| {
            let items: Vec<_> = of.iter().filter_map(|(name, quota)| Some(policy(name, (*quota)?))).collect();
            if items.is_empty() { None } else { HeaderValue::try_from(items.join(", ")).ok() }
        };
        let policies = [header(&known), header(&[("address", limits.address.0)])];
        Self { access, proxies: limits.proxies.clone(), tenants, clients, addresses, policies }
    }

    /// Takes the request off whatever it counts for.
    async fn turns(&self, headers: &HeaderMap, origin: IpAddr) -> (Turns, Option<&HeaderValue>) {
        let [of_known, of_unknown] = &self.policies;
        let address = |turn: fn(&Buckets<IpAddr>, IpAddr) -> Turn| {
            let buckets = self.addresses.as_ref()?;
            Some((buckets.name, turn(buckets, origin)))
        };
        let grant = match self.access.known(headers) {
            Some(grant) => grant,
            None => {
                if let refused @ Some((_, Turn::Refused { .. })) = address(Buckets::look) {
                    return ([refused, None], of_unknown.as_ref());
                }
                match self.access.grant(headers).await {
                    Ok(grant) => grant,
                    // That there are no keys is no fault of the caller's; its handler says so.
                    Err(problem) if problem.status == 503 => return ([None, None], None),
                    Err(_) => return ([address(Buckets::spend), None], of_unknown.as_ref()),
                }
            }
        };
        // What one client does too much is not taken off its tenant, whom others may act for.
        let client = self.clients.as_ref().map(|buckets| {
            let client = grant.subject.clone().map_or(Client::Address(origin), Client::Subject);
            (buckets.name, buckets.spend(client))
        });
        if let Some((_, Turn::Refused { .. })) = client {
            return ([None, client], of_known.as_ref());
        }
        let tenant = grant.tenant(headers).and_then(|tenant| tenant.parse().ok());
        let tenant = self.tenants.as_ref().zip(tenant).map(|(buckets, tenant)| (buckets.name, buckets.spend(tenant)));
        ([tenant, client], of_known.as_ref())
    }
}

fn too_many(name: &str, wait: Duration) -> Problem {
    let who = match name {
        "address" => "this address has sent too many requests without a good token",
        "client" => "this client (the claim sub of its token) sends too many requests",
        _ => "this tenant sends too many requests",
    };
    Problem::too_many_requests(format!("{who}; see Retry-After and RateLimit-Policy"), wait)
}
