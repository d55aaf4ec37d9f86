//! How an exchange ends without an answer, told apart by whose doing it is.

use std::error::Error;
use std::io;

use rustix::io::Errno;
use shopery_model::Fault;

/// An exchange without an answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The endpoint's, or of the way to it.
    Endpoint(Fault, String),
    Ours(SenderFault),
}

/// What goes wrong on our side. The endpoint may be well, so nothing of it is charged to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SenderFault {
    #[error("this process has no file descriptor left for a connection: raise its limit (ulimit -n)")]
    Descriptors,
    #[error("this host has no local port left for a connection")]
    Ports,
    #[error("this host has no memory left for a connection")]
    Memory,
    #[error("no name server answers: see SHOPERY_EGRESS_DNS, or the resolver of this host")]
    Resolver,
    #[error("a cloud refuses the platform's credentials, or there are none: see what the log says of them")]
    CloudCredentials,
    #[error("the clock of this host is off, so that clouds refuse what it signs")]
    Clock,
    #[error("a request to a cloud was given up amid its work")]
    Interrupted,
}

impl SenderFault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Ports => "ports",
            Self::Memory => "memory",
            Self::Resolver => "resolver",
            Self::CloudCredentials => "cloud_credentials",
            Self::Clock => "clock",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether deliveries of all kinds meet it.
    pub(crate) fn is_of_all(self) -> bool {
        !matches!(self, Self::CloudCredentials | Self::Clock | Self::Interrupted)
    }

    /// Of an error of the operating system, by its number.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Self::Descriptors),
            Errno::ADDRNOTAVAIL => Some(Self::Ports),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            _ => None,
        }
    }
}

/// The first `E` among the causes of an error. An [`io::Error`] hides its cause from `source`.
pub(crate) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_by_its_number() {
        for (number, fault) in [
            (Errno::MFILE, Some(SenderFault::Descriptors)),
            (Errno::NFILE, Some(SenderFault::Descriptors)),
            (Errno::ADDRNOTAVAIL, Some(SenderFault::Ports)),
            (Errno::NOMEM, Some(SenderFault::Memory)),
            (Errno::CONNREFUSED, None),
            (Errno::NETUNREACH, None),
        ] {
            assert_eq!(SenderFault::of(&number.into()), fault, "{number}");
        }
        assert_eq!(SenderFault::of(&io::Error::other("too many open files")), None);
    }
}
