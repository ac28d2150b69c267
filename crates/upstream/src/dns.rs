//! Resolving host names by the system's resolver, a bounded number at once. Knows no cluster.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use weft_config::cluster::DnsLookupFamily;

/// Look-ups of the process at once; each blocks a thread of the runtime.
const MAX_LOOKUPS: usize = 16;

/// The answer to a look-up.
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Something that resolves names; tests bring their own.
pub trait Resolve: Send + Sync {
    /// All addresses of `name`, in the order of preference.
    fn resolve(&self, name: &str) -> Answer;
}

/// `getaddrinfo`: `/etc/hosts`, then DNS, as the system is configured.
#[derive(Debug)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Answer {
        let (name, limit) = (name.to_owned(), Arc::clone(&self.0));
        Box::pin(async move {
            let _one = limit.acquire_owned().await.map_err(io::Error::other)?;
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// The addresses that a lookup family uses.
pub(crate) fn of_family(addresses: &[IpAddr], family: DnsLookupFamily) -> Vec<IpAddr> {
    let only = |v4: bool| -> Vec<IpAddr> {
        let wanted = addresses.iter().filter(|a| a.is_ipv4() == v4);
        wanted.copied().collect()
    };
    let first_of = |v4: bool| {
        let preferred = only(v4);
        if preferred.is_empty() {
            only(!v4)
        } else {
            preferred
        }
    };
    match family {
        DnsLookupFamily::Auto => first_of(false),
        DnsLookupFamily::V4Preferred => first_of(true),
        DnsLookupFamily::V4Only => only(true),
        DnsLookupFamily::V6Only => only(false),
        DnsLookupFamily::All => addresses.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_prefer_and_restrict() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        for (family, both, only_v4) in [
            (DnsLookupFamily::Auto, vec![v6], vec![v4]),
            (DnsLookupFamily::V4Preferred, vec![v4], vec![v4]),
            (DnsLookupFamily::V4Only, vec![v4], vec![v4]),
            (DnsLookupFamily::V6Only, vec![v6], vec![]),
            (DnsLookupFamily::All, vec![v4, v6], vec![v4]),
        ] {
            assert_eq!(of_family(&[v4, v6], family), both, "{family:?}");
            assert_eq!(of_family(&[v4], family), only_v4, "{family:?}");
        }
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let found = SystemResolver::default()
            .resolve("localhost")
            .await
            .unwrap();
        assert!(found.iter().any(IpAddr::is_loopback));
    }
}
