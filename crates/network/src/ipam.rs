//! Which addresses of a subnet are given out.
//!
//! ```text
//! free ──take──▶ used ──release──▶ free
//!                  └────rest─────▶ resting ──take (by its container)──▶ used
//!                                     └──take (by another, when nothing else is left), forget──▶ …
//! ```
//!
//! An address rests while the container that had it is stopped: it comes back to the same container, unless the subnet is
//! full otherwise. Addresses are given in turn, each the next free one after the last, so that nobody's old connections
//! meet a new container.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::AddressPlan;
use crate::subnet::bits;
use crate::{AddressError, Subnet};

/// Why an address is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The gateway or an auxiliary address: never given out.
    Fixed,
    /// An endpoint.
    Endpoint,
    /// A container that is stopped.
    Resting,
}

/// How many addresses of a subnet are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The subnet.
    pub subnet: Subnet,
    /// Given out, or never given to anybody.
    pub in_use: u64,
    /// Left for containers that ask for none in particular.
    pub available: u64,
}

/// The leases of one subnet.
#[derive(Debug)]
pub(crate) struct Leases {
    /// The network, for messages.
    network: String,
    subnet: Subnet,
    /// Where addresses are chosen from.
    range: Subnet,
    used: HashMap<u128, Holder>,
    last: u128,
}

impl Leases {
    /// No lease but the fixed addresses.
    pub(crate) fn new(network: &str, plan: &AddressPlan) -> Self {
        let fixed = plan.gateway.into_iter().chain(plan.auxiliary.values().copied());
        let used = fixed.map(|address| (bits(address), Holder::Fixed)).collect();
        let range = plan.range.unwrap_or(plan.subnet);
        Self { network: network.to_owned(), subnet: plan.subnet, range, used, last: range.first() }
    }

    /// The subnet.
    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Gives out the wanted address; or else the preferred one, if it is free, or the next free one.
    pub(crate) fn take(
        &mut self,
        wanted: Option<IpAddr>,
        preferred: Option<IpAddr>,
    ) -> Result<IpAddr, AddressError> {
        if let Some(address) = wanted {
            return self.take_this(address);
        }
        if let Some(address) = preferred
            && self.take_this(address).is_ok()
        {
            return Ok(address);
        }
        self.take_next()
    }

    /// Takes an address back. One that isn't out is no error.
    pub(crate) fn release(&mut self, address: IpAddr) {
        if self.used.get(&bits(address)) == Some(&Holder::Endpoint) {
            self.used.remove(&bits(address));
        }
    }

    /// Takes an address back and keeps it for the container that had it.
    pub(crate) fn rest(&mut self, address: IpAddr) {
        if self.subnet.contains(address) && self.used.get(&bits(address)) != Some(&Holder::Fixed) {
            self.used.insert(bits(address), Holder::Resting);
        }
    }

    /// The container of a resting address is gone.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        if self.used.get(&bits(address)) == Some(&Holder::Resting) {
            self.used.remove(&bits(address));
        }
    }

    /// How many addresses there are. One that rests is nobody's.
    pub(crate) fn usage(&self) -> Usage {
        let (first, last) = hosts(self.subnet);
        let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let taken = |holder: &&Holder| **holder != Holder::Resting;
        let reserved = (first - self.subnet.first()) + (self.subnet.last() - last);
        let (start, end) = (first.max(self.range.first()), last.min(self.range.last()));
        let taken_there = self
            .used
            .iter()
            .filter(|(number, holder)| (start..=end).contains(*number) && taken(holder))
            .count();
        Usage {
            subnet: self.subnet.network(),
            in_use: number(reserved.saturating_add(self.used.values().filter(taken).count() as u128)),
            available: number(
                end.saturating_sub(start).saturating_add(1).saturating_sub(taken_there as u128),
            ),
        }
    }

    /// How many endpoints have an address.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.used.values().filter(|holder| **holder == Holder::Endpoint).count()
    }

    fn take_this(&mut self, address: IpAddr) -> Result<IpAddr, AddressError> {
        let (first, last) = hosts(self.subnet);
        if !self.subnet.contains(address) || !(first..=last).contains(&bits(address)) {
            return Err(AddressError::Unsuitable { address, subnet: self.subnet.network() });
        }
        match self.used.get(&bits(address)) {
            None | Some(Holder::Resting) => {
                self.used.insert(bits(address), Holder::Endpoint);
                Ok(address)
            }
            Some(Holder::Endpoint | Holder::Fixed) => Err(AddressError::InUse { address }),
        }
    }

    fn take_next(&mut self) -> Result<IpAddr, AddressError> {
        let (first, last) = hosts(self.subnet);
        let (start, end) = (first.max(self.range.first()), last.min(self.range.last()));
        let number = self.next_free(start, end).or_else(|| {
            let resting = |(number, holder): (&u128, &Holder)| {
                (*holder == Holder::Resting && (start..=end).contains(number)).then_some(*number)
            };
            self.used.iter().filter_map(resting).min()
        });
        let Some(number) = number else {
            let family = if self.subnet.is_ipv6() { "IPv6" } else { "IPv4" };
            return Err(AddressError::Exhausted { family, network: self.network.clone() });
        };
        self.used.insert(number, Holder::Endpoint);
        self.last = number;
        Ok(self.subnet.number(number))
    }

    fn next_free(&self, start: u128, end: u128) -> Option<u128> {
        // A full range is told by its count, so that nobody searches 65,534 addresses in vain again and again.
        if start > end
            || self.used.len() as u128 > end - start && self.count_between(start, end) > end - start
        {
            return None;
        }
        let after = self.last.saturating_add(1).clamp(start, end)..=end;
        let before = start..=self.last.min(end);
        let is_free = |number: &u128| !self.used.contains_key(number);
        if self.last >= end { (start..=end).find(is_free) } else { after.chain(before).find(is_free) }
    }

    fn count_between(&self, start: u128, end: u128) -> u128 {
        self.used.keys().filter(|number| (start..=end).contains(*number)).count() as u128
    }
}

/// The first and the last address that a host may have: not the network's own, and in IPv4 not the broadcast address.
pub(crate) fn hosts(subnet: Subnet) -> (u128, u128) {
    let (first, last) = (subnet.first(), subnet.last());
    match last - first {
        0 | 1 => (first, last),
        _ if subnet.is_ipv6() => (first + 1, last),
        _ => (first + 1, last - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(gateway: &str) -> Leases {
        let subnet: Subnet = gateway.parse().unwrap();
        let plan = AddressPlan { gateway: Some(subnet.address()), ..AddressPlan::new(subnet.network()) };
        Leases::new("net (123)", &plan)
    }

    fn next(leases: &mut Leases) -> String {
        leases.take(None, None).map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const FULL: &str = "no available IPv4 addresses on this network's address pools: net (123)";

    #[test]
    fn what_is_given_out_is_counted() {
        let mut leases = leases("10.0.0.1/24");
        let empty = leases.usage();
        assert_eq!(empty.in_use, 3, "the network's address, the gateway's and that of everybody");
        let size = u64::try_from(leases.subnet().last() - leases.subnet().first() + 1).unwrap();
        assert_eq!(empty.available, size - 3);
        let address = leases.take(None, None).unwrap();
        assert_eq!((leases.usage().in_use, leases.usage().available), (4, size - 4));
        leases.rest(address);
        assert_eq!(leases.usage(), empty);
    }

    #[test]
    fn addresses_come_in_turn_and_rest_after_use() {
        let mut leases = leases("10.0.0.1/29");
        assert_eq!(next(&mut leases), "10.0.0.2");
        assert_eq!(next(&mut leases), "10.0.0.3");
        leases.release(address("10.0.0.2"));
        assert_eq!(next(&mut leases), "10.0.0.4");
        assert_eq!(next(&mut leases), "10.0.0.5");
        assert_eq!(next(&mut leases), "10.0.0.6");
        assert_eq!(next(&mut leases), "10.0.0.2", "around, and not the broadcast address");
        assert_eq!(next(&mut leases), FULL);
        leases.release(address("10.0.0.5"));
        assert_eq!(next(&mut leases), "10.0.0.5");
        assert_eq!(leases.count(), 5);
    }

    #[test]
    fn a_stopped_container_gets_its_address_back() {
        let mut leases = leases("10.0.0.1/29");
        assert_eq!(next(&mut leases), "10.0.0.2");
        leases.rest(address("10.0.0.2"));
        for expected in ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"] {
            assert_eq!(next(&mut leases), expected, "not the one that rests");
        }
        assert_eq!(leases.take(None, Some(address("10.0.0.2"))).unwrap(), address("10.0.0.2"));
        leases.rest(address("10.0.0.2"));
        assert_eq!(next(&mut leases), "10.0.0.2", "before others go without");
        leases.rest(address("10.0.0.4"));
        leases.forget(address("10.0.0.4"));
        leases.forget(address("10.0.0.3"));
        assert_eq!(next(&mut leases), "10.0.0.4");
        assert_eq!(next(&mut leases), FULL);
    }

    #[test]
    fn a_wanted_address_is_checked() {
        let mut leases = leases("10.0.0.1/24");
        let mut take = |text| leases.take(Some(address(text)), None);
        assert!(take("10.0.0.9").is_ok());
        assert!(matches!(take("10.0.0.9"), Err(AddressError::InUse { .. })));
        assert!(matches!(take("10.0.0.1"), Err(AddressError::InUse { .. })), "the gateway");
        for outside in ["10.0.0.0", "10.0.0.255", "10.0.1.9", "fd00::1"] {
            assert!(matches!(take(outside), Err(AddressError::Unsuitable { .. })), "{outside}");
        }
        leases.release(address("10.0.0.1"));
        assert!(leases.take(Some(address("10.0.0.1")), None).is_err(), "the gateway's is never given back");
    }

    #[test]
    fn a_range_and_auxiliary_addresses() {
        let mut plan = AddressPlan::new("10.0.0.0/24".parse().unwrap());
        plan.gateway = Some(address("10.0.0.1"));
        plan.range = Some("10.0.0.8/30".parse().unwrap());
        plan.auxiliary.insert("router".into(), address("10.0.0.9"));
        let mut leases = Leases::new("net (123)", &plan);
        for expected in ["10.0.0.10", "10.0.0.11", "10.0.0.8", FULL] {
            assert_eq!(next(&mut leases), expected);
        }
        assert!(leases.take(Some(address("10.0.0.77")), None).is_ok(), "outside of the range, but asked for");
    }

    #[test]
    fn the_other_family_and_small_subnets() {
        let mut wide = leases("fd00:1::1/64");
        assert_eq!(next(&mut wide), "fd00:1::2");
        assert_eq!(next(&mut wide), "fd00:1::3");
        let mut narrow = leases("10.0.0.0/31");
        assert_eq!(next(&mut narrow), "10.0.0.1");
        assert_eq!(next(&mut narrow), FULL);
    }
}
