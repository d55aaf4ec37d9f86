//! What a token says of itself. It is the API that verifies it; this only shows.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub sub: Option<String>,
    pub tenants: Vec<String>,
    pub scope: String,
    pub exp: Option<i64>,
}

impl Claims {
    /// `None` if it is no JSON Web Token.
    pub fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, claims) = (parts.next()?, parts.next()?);
        parts.next()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()
    }

    pub fn scopes(&self) -> Vec<&str> {
        self.scope.split_whitespace().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_what_it_is_for() {
        let claims =
            URL_SAFE_NO_PAD.encode(r#"{"sub":"anna","tenants":["a","b"],"scope":"x:read  y:write","exp":7,"more":1}"#);
        let claims = Claims::read(&format!("e30.{claims}.c2ln")).unwrap();
        assert_eq!(claims.scopes(), ["x:read", "y:write"]);
        assert_eq!((claims.sub.as_deref(), claims.tenants.len(), claims.exp), (Some("anna"), 2, Some(7)));
        for bad in ["", "a.b", "a.!.c", "a.e30", "opaque"] {
            assert_eq!(Claims::read(bad), None, "{bad}");
        }
    }
}
