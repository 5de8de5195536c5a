//! Which addresses of the subnet are given out.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::{AddressError, Subnet};

/// The leases of one subnet. Addresses are given in turn, each the next free one after the last: an address that was just
/// given back rests as long as possible, so that nobody's old connections meet a new container.
#[derive(Debug)]
pub(crate) struct Leases {
    gateway: Subnet,
    used: HashSet<u32>,
    last: u32,
}

impl Leases {
    /// No lease but the gateway's own address.
    pub(crate) fn new(gateway: Subnet) -> Self {
        let own = gateway.address().to_bits();
        Self { gateway, used: HashSet::from([own]), last: own }
    }

    /// Gives out the wanted address, or the next free one.
    pub(crate) fn take(&mut self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, AddressError> {
        match wanted {
            Some(address) => self.take_this(address),
            None => self.take_next(),
        }
    }

    /// Takes an address back. One that isn't out is no error.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        if address != self.gateway.address() {
            self.used.remove(&address.to_bits());
        }
    }

    fn take_this(&mut self, address: Ipv4Addr) -> Result<Ipv4Addr, AddressError> {
        if !self.hosts().contains(&address.to_bits()) {
            return Err(AddressError::Unsuitable { address, subnet: self.gateway.network() });
        }
        if !self.used.insert(address.to_bits()) {
            return Err(AddressError::InUse { address });
        }
        Ok(address)
    }

    fn take_next(&mut self) -> Result<Ipv4Addr, AddressError> {
        let hosts = self.hosts();
        // A full subnet is told by its count, so that nobody searches 65,534 addresses in vain again and again.
        let room = u64::from(*hosts.end()) + 1 - u64::from(*hosts.start());
        if self.used.len() as u64 >= room {
            return Err(AddressError::Exhausted { subnet: self.gateway.network() });
        }
        let after = self.last + 1..=*hosts.end();
        let before = *hosts.start()..=self.last;
        let free = after.chain(before).find(|address| !self.used.contains(address));
        let Some(address) = free else {
            return Err(AddressError::Exhausted { subnet: self.gateway.network() });
        };
        self.used.insert(address);
        self.last = address;
        Ok(Ipv4Addr::from_bits(address))
    }

    /// All addresses but the subnet's first and last.
    fn hosts(&self) -> std::ops::RangeInclusive<u32> {
        self.gateway.first() + 1..=self.gateway.last() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(gateway: &str) -> Leases {
        Leases::new(gateway.parse().unwrap())
    }

    fn next(leases: &mut Leases) -> String {
        leases.take(None).map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    #[test]
    fn addresses_come_in_turn_and_rest_after_use() {
        let mut leases = leases("10.0.0.1/29");
        assert_eq!(next(&mut leases), "10.0.0.2");
        assert_eq!(next(&mut leases), "10.0.0.3");
        leases.release(Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(next(&mut leases), "10.0.0.4");
        assert_eq!(next(&mut leases), "10.0.0.5");
        assert_eq!(next(&mut leases), "10.0.0.6");
        assert_eq!(next(&mut leases), "10.0.0.2", "around, and not the broadcast address");
        assert_eq!(
            next(&mut leases),
            "no available IPv4 addresses on this network's address pools: bridge (10.0.0.0/29)"
        );
        leases.release(Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(next(&mut leases), "10.0.0.5");
    }

    #[test]
    fn a_wanted_address_is_checked() {
        let mut leases = leases("10.0.0.1/24");
        let mut take = |last| leases.take(Some(Ipv4Addr::new(10, 0, 0, last)));
        assert!(take(9).is_ok());
        assert!(matches!(take(9), Err(AddressError::InUse { .. })));
        assert!(matches!(take(1), Err(AddressError::InUse { .. })), "the gateway");
        assert!(matches!(take(0), Err(AddressError::Unsuitable { .. })));
        assert!(matches!(take(255), Err(AddressError::Unsuitable { .. })));
        leases.release(Ipv4Addr::new(10, 0, 0, 1));
        assert!(leases.take(Some(Ipv4Addr::new(10, 0, 0, 1))).is_err(), "the gateway's is never given back");
    }
}
