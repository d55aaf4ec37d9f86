//! What a token says of itself. It is the API that verifies it; this only shows.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub sub: Option<String>,
    pub tenants: Vec<String>,
    /// With spaces between; some providers send an array.
    #[serde(deserialize_with = "scope")]
    pub scope: String,
    /// In seconds since 1970; what a token has behind the second is left away.
    #[serde(deserialize_with = "seconds")]
    pub exp: Option<i64>,
}

fn scope<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scope {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Scope::deserialize(from)? {
        Scope::Text(text) => text,
        Scope::List(list) => list.join(" "),
    })
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let exp = Option::<serde_json::Number>::deserialize(from)?;
    // Beyond what i64 holds, the conversion ends at its limits.
    Ok(exp.and_then(|exp| exp.as_i64().or_else(|| exp.as_f64().map(|exp| exp as i64))))
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
        let claims = URL_SAFE_NO_PAD.encode(r#"{"scope":["x:read","y:write"],"exp":7.9}"#);
        let claims = Claims::read(&format!("e30.{claims}.c2ln")).unwrap();
        assert_eq!((claims.scopes(), claims.exp), (vec!["x:read", "y:write"], Some(7)));
        for bad in ["", "a.b", "a.!.c", "a.e30", "opaque"] {
            assert_eq!(Claims::read(bad), None, "{bad}");
        }
    }
}
