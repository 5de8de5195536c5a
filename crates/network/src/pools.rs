//! Which subnet a network gets that names none: the first of the pools that nothing on the host uses.

use crate::{AddressPool, NetworkError, Subnet};

/// The first subnet of the pools that overlaps with none that is taken. `size` asks for another prefix length than the
/// pools'.
pub(crate) fn first_free(
    pools: &[AddressPool],
    size: Option<u8>,
    taken: &[Subnet],
) -> Result<Subnet, NetworkError> {
    for pool in pools {
        let base = pool.base.network();
        let size = size.unwrap_or(pool.size);
        let width = if base.is_ipv6() { 128 } else { 32 };
        if size < base.prefix() || size > width {
            continue;
        }
        let step = 1_u128 << (width - size);
        let mut first = base.first();
        while first <= base.last() {
            let subnet = Subnet::new(base.number(first), size);
            let Some(rival) = taken.iter().find(|other| other.overlaps(subnet)) else { return Ok(subnet) };
            // What is taken may be much larger than one step.
            let next = subnet.last().max(rival.last()).checked_add(1).map(|next| next.next_multiple_of(step));
            match next {
                Some(next) if next > first => first = next,
                _ => break,
            }
        }
    }
    Err(NetworkError::NoFreeSubnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn check(pools: &[AddressPool], size: Option<u8>, taken: &[&str], expected: &str) {
        let taken: Vec<Subnet> = taken.iter().map(|text| subnet(text)).collect();
        assert_eq!(first_free(pools, size, &taken).unwrap(), subnet(expected));
    }

    #[test]
    fn the_pools_are_searched_in_order() {
        let pools = AddressPool::docker();
        check(&pools, None, &[], "172.17.0.0/16");
        check(&pools, None, &["172.17.3.0/24"], "172.18.0.0/16");
        check(&pools, None, &["172.16.0.0/12"], "192.168.0.0/20");
        check(&pools, None, &["172.16.0.0/12", "192.168.0.0/24"], "192.168.16.0/20");
        check(&pools, Some(24), &["172.17.0.0/24", "172.17.1.0/24"], "172.17.2.0/24");
        let all = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        assert!(matches!(first_free(&pools, None, &all), Err(NetworkError::NoFreeSubnet)));
        assert!(matches!(first_free(&pools, None, &[subnet("0.0.0.0/0")]), Err(NetworkError::NoFreeSubnet)));
    }

    #[test]
    fn unique_local_addresses() {
        let pools = [AddressPool::unique_local([1, 2, 3, 4, 5])];
        check(&pools, None, &[], "fd01:203:405::/64");
        check(&pools, None, &["fd01:203:405::/64"], "fd01:203:405:1::/64");
    }
}
